"""The audit log's writer, and the refused credentials that it sums up."""
