"""gunicorn's side: configuration, worker, HTTP/1.1 on the client's connection."""
