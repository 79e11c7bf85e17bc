"""The response cache: stored responses, responses that several clients share, idempotency."""
