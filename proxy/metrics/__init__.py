"""What the proxy tells about itself in figures: counted in each process, merged at a scrape."""
