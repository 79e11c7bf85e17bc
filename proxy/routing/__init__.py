"""From a request to an upstream's response: which target, and how often to try."""
