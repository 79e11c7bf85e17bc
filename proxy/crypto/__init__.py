"""Encryption of stored keys, access tokens and their hashes, fingerprints of foreign keys."""
