"""The audit log's writer, and refused credentials summed up for it."""
