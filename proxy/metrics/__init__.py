"""What the proxy measures of itself: counted in each process, merged at a scrape."""
