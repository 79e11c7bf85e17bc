"""The spool: usage events on disk until every sink has taken them."""
