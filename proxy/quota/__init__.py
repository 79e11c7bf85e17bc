"""What an access token may use in all: requests and LLM tokens."""
