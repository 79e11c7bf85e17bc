"""The management API: Flask blueprints below `/manage`."""
