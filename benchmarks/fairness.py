"""A thousand clients of one worker with twenty connections: does each get its turn?

`python fairness.py SECONDS`, in a generated project by its own Python; prints a line of JSON. wrk
does not count by client, so this does: each asks for a user at random, and again when answered.
"""

import asyncio
import json
import logging
import random
import re
import resource
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import uvloop
from compare import USERS, WARM_UP, filled_database, measure
from tests.process import serve

CLIENTS = 1000
CONNECTIONS = 20

# An answer is whole when this much follows its head.
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Client(asyncio.Protocol):
    """Counts its answers, and how many seconds it waited for each."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.answers = 0
        self.errors = 0
        self.running = False
        self.greeted = asyncio.Event()
        self._received = b""
        self._asked_at = 0.0
        # uvloop's transports are not asyncio's.
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = transport

    async def greet(self) -> None:
        """Wait until the service has taken the connection, which is not the pool's business."""
        self._send("/health/live")
        await self.greeted.wait()

    def ask(self) -> None:
        """Ask for a user."""
        self.running = True
        self._asked_at = time.perf_counter()
        self._send(f"/users/{random.randint(1, USERS)}")

    def data_received(self, data: bytes) -> None:
        """Take an answer; ask again."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        self._received = b""
        if not self.running:
            self.greeted.set()
            return
        self._waited()
        if head.startswith(b"HTTP/1.1 200 "):
            self.answers += 1
        else:
            self.errors += 1
        self.ask()

    def connection_lost(self, _: Exception | None) -> None:
        """Count it as an error while there are requests to answer."""
        if self.running:
            self.errors += 1
            self.running = False

    def stop(self) -> None:
        """Ask no more; an answer still awaited counts as waited for until now."""
        if self.running:
            self.running = False
            self._waited()
        self._transport.abort()

    def _send(self, path: str) -> None:
        self._transport.write(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())

    def _waited(self) -> None:
        self.waits.append(time.perf_counter() - self._asked_at)


async def load(url: str, seconds: float) -> dict[str, float]:
    """Let all clients ask for some seconds; return what they saw."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(CLIENTS):
        _, client = await loop.create_connection(Client, address.hostname, address.port)
        await client.greet()
        clients.append(client)
    for client in clients:
        client.ask()
    await asyncio.sleep(seconds)
    for client in clients:
        client.stop()
    return summarize(clients, seconds)


def summarize(clients: list[Client], seconds: float) -> dict[str, float]:
    """Return rates, waits in milliseconds, and Jain's index: 1 when all got the same."""
    waits = [wait for client in clients for wait in client.waits]
    answers = [client.answers for client in clients]
    mean = sum(waits) / len(waits)
    squares = sum(n * n for n in answers)
    return {
        "clients": CLIENTS,
        "connections": CONNECTIONS,
        "seconds": seconds,
        "rate": sum(answers) / seconds,
        "errors": sum(client.errors for client in clients),
        "mean_wait": 1000 * mean,
        "longest_wait": 1000 * max(waits),
        "longest_by_mean": max(waits) / mean,
        "jain": sum(answers) ** 2 / (len(answers) * squares) if squares else 0.0,
    }


def main() -> None:
    """Run the service on a filled database, and load it."""
    # Drivers warn of things that are no matter here.
    logging.basicConfig(level=logging.ERROR)
    # Each client is an open file on both sides; the service inherits the limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with filled_database(), serve("app.main:app", POOL_SIZE=str(CONNECTIONS)) as running:
        measure(running.url, "read", WARM_UP)
        print(json.dumps(uvloop.run(load(running.url, float(sys.argv[1])))))


if __name__ == "__main__":
    main()
