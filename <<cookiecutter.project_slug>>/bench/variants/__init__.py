"""`GET /users/{id}` in other ways, each a service of its own."""
