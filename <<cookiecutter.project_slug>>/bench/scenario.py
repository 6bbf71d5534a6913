"""What `make bench` asks for. Edit it, so that it asks as your users do.

It starts from the OpenAPI document: every route is asked with what its schemas allow, and rows for
`{…_id}` are created before, by the service itself. A route is named as the document has it, such as
`GET /orders/{order_id}`.
"""

from collections.abc import Callable
from typing import Any

from httpx2 import Client

# How often a route is asked in the mix of all; 0 for never. Those not named here: 1.
WEIGHTS: dict[str, int] = {}

# What a route is sent where the schema does not tell: each call gets a number never used before.
#   "POST /orders": lambda n: {"number": f"A-{n}", "total": "9.99"}
BODIES: dict[str, Callable[[int], Any]] = {}

# What stands behind the question mark: "GET /orders": "limit=50&sort=placed_at"
QUERIES: dict[str, str] = {}


def headers(client: Client) -> dict[str, str]:
    """Return what each request carries, such as a token that a login returns."""
    return {}
