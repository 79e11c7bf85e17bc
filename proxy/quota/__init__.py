"""What an access token may use over its life: requests and LLM tokens."""
