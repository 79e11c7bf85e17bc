"""Facts that every room may know: errors and their wording, usage events, request ids."""
