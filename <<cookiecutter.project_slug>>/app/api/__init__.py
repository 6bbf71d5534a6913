"""The routes, and what they answer when something goes wrong."""
