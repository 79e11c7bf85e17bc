"""What asks: wrk for throughput, small Python clients for what wrk cannot do."""
