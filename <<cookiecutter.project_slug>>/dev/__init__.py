"""Servers for tests and development: nothing here runs in production."""
