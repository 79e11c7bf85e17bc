"""The configuration: environment variables and `.env` as one frozen Settings object."""
