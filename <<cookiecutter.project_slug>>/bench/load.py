"""What is measured and by what: an empty database, services of a process each, and wrk."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx2
from alembic import command
from alembic.config import Config
from anyio.from_thread import start_blocking_portal
from sqlalchemy import URL

from dev import database
from tests import process

# A method, a path and a body.
Request = tuple[str, str, str]

# `rate` in a second, `p50` and `p99` in milliseconds, `errors`, and shares of the requests' time.
Figures = dict[str, float]


@contextmanager
def migrated_database() -> Iterator[URL]:
    """Give a database on the server that the tests use, to all services. Raises NoServer."""
    # What is not written cannot be read: every start would compile again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    name = f"bench_{uuid4().hex[:12]}"
    with database.running() as server, database.temporary(server, name) as url:
        address = url.render_as_string(hide_password=False)
        os.environ.update(process.SETTINGS, DATABASE_URL=address)
        command.upgrade(Config(toml_file=process.PROJECT / "pyproject.toml"), "head")
        yield url


@contextmanager
def serve(application: str, **settings: str) -> Iterator[process.Process]:
    """Run a service in one worker. Raises RuntimeError if it does not start."""
<% if cookiecutter.sync_bridge == "yes" %>
    if size := settings.get("POOL_SIZE"):
        settings["SYNC_POOL_SIZE"] = str(max(1, int(size) // 4))
<% endif %>
    service = process.serve(application, **settings)
    with start_blocking_portal() as loop, loop.wrap_async_context_manager(service) as running:
        yield running


def load(
    url: str, requests: Iterable[Request], clients: int, seconds: float, **headers: str
) -> Figures:
    """Send requests: a client the next one when the last is answered. Raises RuntimeError."""
    # It counts whole seconds; told to stop before, it still says what it has seen.
    words = ["wrk", "--threads=1", f"--connections={clients}", f"--duration={int(seconds) + 2}s"]
    words += ["--timeout=10s", f"--script={Path(__file__).with_name('load.lua')}"]
    words += [*(f"--header={name}: {value}" for name, value in headers.items()), url]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        file.writelines("\t".join(request) + "\n" for request in requests)
        file.seek(0)
        with subprocess.Popen(words, stdin=file, stdout=subprocess.PIPE, text=True) as wrk:
            assert wrk.stdout is not None
            # The script has read its requests.
            wrk.stdout.readline()
            time.sleep(seconds)
            wrk.send_signal(signal.SIGINT)
            _, found, figures = wrk.stdout.read().partition("FIGURES ")
    if not found:
        raise RuntimeError("wrk has failed.")
    return dict(json.loads(figures))


def spent(service: process.Process) -> list[float]:
    """Return how many seconds its requests took, waited for connections, and for statements."""
    found = re.search(r"Metrics: http://[\d.]+:(\d+)", service.log.read_text())
    if found is None:
        raise RuntimeError("No metrics are served: see app/core/prometheus.py")
    # A request is counted after its answer.
    time.sleep(0.1)
    said = httpx2.get(f"http://127.0.0.1:{found[1]}/metrics").text
    names = "server_request_duration", "connection_wait_time", "client_operation_duration"
    sums = (re.findall(rf"{name}_seconds_sum{{.*}} (.+)", said) for name in names)
    return [sum(map(float, values)) for values in sums]
