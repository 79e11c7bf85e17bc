"""The application log: configuration, sanitizer, the thread that writes it, the access log."""
