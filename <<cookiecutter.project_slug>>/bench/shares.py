"""Where the time of a request goes, by the service's own metrics."""

import re
import socket
import time
from collections.abc import Iterable
from typing import Any

import httpx2

from bench.load import serve
from bench.routes import Routes

PARTS = ("waiting", "database", "rest")
SUMS = (
    r"^db_client_connection_wait_time_seconds_sum{.*} (\S+)$",
    r"^db_client_operation_duration_seconds_sum{.*} (\S+)$",
    r"^http_server_request_duration_seconds_sum{.*} (\S+)$",
)


def measure_shares(
    routes: Routes, mixes: Iterable[list[str]], clients: int, seconds: float, **settings: str
) -> list[dict[str, Any]]:
    """Ask for mixes of routes in turn; return the figures of each, and the shares of its time.

    With metrics, which cost the service some requests a second. Raises RuntimeError.
    """
    rows = []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with serve("app.main:app", METRICS_PORT=str(port), **settings) as address:
        # It opens its connections.
        routes.ask(address, list(routes.weights), clients, seconds / 3)
        for names in mixes:
            before = spent(port)
            figures = routes.ask(address, names, clients, seconds)
            waiting, database, whole = map(float.__sub__, spent(port), before)
            # Statements may run at the same time.
            whole = max(whole, waiting + database) or 1
            shares = (waiting / whole, database / whole, 1 - (waiting + database) / whole)
            rows.append(figures._asdict() | dict(zip(PARTS, shares, strict=True)))
    return rows


def spent(port: int) -> list[float]:
    """Return how many seconds requests have taken so far, after a second at most the last too."""
    now: list[float] = []
    for _ in range(20):
        before = now
        try:
            text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx2.ConnectError as error:
            raise RuntimeError("No metrics are served: see app/core/prometheus.py") from error
        now = [sum(map(float, re.findall(line, text, re.MULTILINE))) for line in SUMS]
        if now == before:
            break
        time.sleep(0.05)
    return now
