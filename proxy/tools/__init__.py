"""Tools without click and settings: the load test, the verifier, the stand-in upstream."""
