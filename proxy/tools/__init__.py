"""Tools without click and settings: the load test, the verifier, the stand-in upstream, and the
reader of HTTP/1 responses that they share with the benchmarks and the tests."""
