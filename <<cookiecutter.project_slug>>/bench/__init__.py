"""The load test: how fast the service's own routes are, and how large its pool should be."""
