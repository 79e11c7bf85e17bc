"""The load generator behind `manage.py bench`."""
