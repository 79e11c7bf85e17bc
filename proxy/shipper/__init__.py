"""The shipper: one process a node that brings events from the spools to remote sinks."""
