"""Small tools that several rooms need: periodic tasks, single flight, backoff, files, locks."""
