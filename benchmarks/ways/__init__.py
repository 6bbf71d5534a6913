"""Other ways to write the service, each a service of its own on the same database."""
