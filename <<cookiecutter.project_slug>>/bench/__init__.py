"""Load tests: how fast this service is, beside other ways to write it."""
