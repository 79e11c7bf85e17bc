"""`/v1` without Flask: one request from its head to its last byte."""
