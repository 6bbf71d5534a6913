"""The application as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from httpx2 import AsyncClient
from websockets.asyncio.client import connect

PROJECT = Path(__file__).parent.parent

# Seconds; the process needs one, a busy machine more.
START_LIMIT = 30

# What tests and `make bench` rest on, whatever the service has as its own, in `config.py`, `.env`
# or outside.
POOL = {
    "POOL_SIZE": "20",
<% if cookiecutter.sync_bridge == "yes" %>
    "SYNC_POOL_SIZE": "5",
<% endif %>
    "MAX_OVERFLOW": "0",
    "POOL_TIMEOUT": "3",
    "POOL_RECYCLE": "1800",
}
SETTINGS = POOL | {
    "DATABASE_READ_URL": "",
    "MIGRATION_DATABASE_URL": "",
    "STATEMENT_TIMEOUT": "30",
    "MAX_BODY_SIZE": "1000000",
    "ECHO_SQL": "false",
    "SLOW_STATEMENT": "",
    "METRICS_PORT": "",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    "LOG_LEVEL": "INFO",
    "CORS_ORIGINS": "",
    "WEB_CONCURRENCY": "1",
}


@dataclass
class Process:
    """A running server: its address, its process, and what it has written."""

    url: str
    child: subprocess.Popen[bytes]
    log: Path

    def client(self) -> AsyncClient:
        """Return a client of it. It speaks no TLS, whose certificates take long to load."""
        return AsyncClient(base_url=self.url, verify=False)

    def websocket(self, path: str) -> connect:
        """Return a WebSocket to open: `async with server.websocket("/path") as socket`."""
        return connect(f"{self.url.replace('http', 'ws')}{path}")


@contextmanager
def serve(application: str = "app.main:app", *options: str, **settings: str) -> Iterator[Process]:
    """Run `uvicorn` with these settings in its environment, on a port of its own choice."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            words = [sys.executable, "-m", "uvicorn", application, "--port", "0", "--no-access-log"]
            # Kept for longer than by httpx, which may else use a connection that is being closed.
            words += ["--timeout-graceful-shutdown", "5", "--timeout-keep-alive", "75", *options]
            env = os.environ | settings
            child = subprocess.Popen(words, cwd=PROJECT, env=env, stdout=output, stderr=output)
        try:
            yield Process(address(child, log), child, log)
        finally:
            # As Ctrl-C does: without the pause in which readiness says 503.
            child.send_signal(signal.SIGINT)
            child.wait()


def address(child: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the server says where it listens. Raises RuntimeError when it does not."""
    end = time.monotonic() + START_LIMIT
    while child.poll() is None and time.monotonic() < end:
        if found := re.search(r"running on (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise RuntimeError(f"The server did not start:\n{log.read_text()}")
