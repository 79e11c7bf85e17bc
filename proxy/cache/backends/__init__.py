"""Where cached responses are kept: a process's memory, a file of the node, Redis behind it."""
