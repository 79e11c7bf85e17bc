"""Direct against proxied, byte for byte: behind `manage.py verify`."""
