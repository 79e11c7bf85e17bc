"""From a request to an upstream's response: where to, and how often to try."""
