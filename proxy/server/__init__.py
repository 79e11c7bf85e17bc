"""gunicorn: its configuration, its worker, and HTTP/1.1 on the client's connection."""
