"""A service under changing load, and what Prometheus says of it for each panel of the dashboard.

`python record.py FILE SCALE`, in a generated project by its own Python: see `dashboard.py`. It all
listens on this machine alone, and ends with this.
"""

import asyncio
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import socket
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from app.models import User
from dev import server
from httpx2 import AsyncClient, Limits
from sqlalchemy import URL, insert, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from tests.process import PROJECT, SETTINGS, serve

USERS = 20_000

# Few connections and little patience, so that a small machine shows what a large one would. The
# metrics are at the first free port from that on.
SHOP = SETTINGS | {"POOL_SIZE": "5", "POOL_TIMEOUT": "0.3", "METRICS_PORT": "21000"}

# Seconds between two scrapes, and what Grafana makes of them: four of its.
SCRAPE = "1s"
RATE_INTERVAL = "4s"

# Seconds; a process needs one or two, a busy machine more.
START_LIMIT = 30


@dataclass(frozen=True)
class Phase:
    """Some seconds of the run: how many clients do what, and whether the database is there."""

    name: str
    seconds: float
    browsers: int = 6
    reporters: int = 0
    swappers: int = 0
    away: bool = False


PHASES = (
    Phase("", 15),
    Phase("8 reports", 15, reporters=8),
    Phase("", 7),
    Phase("120 reports", 15, reporters=120),
    Phase("", 12),
    Phase("database away", 12, away=True),
    Phase("", 12),
    Phase("deadlocks", 18, swappers=8),
    Phase("", 10),
)

Client = Callable[[AsyncClient], Awaitable[object]]


async def browse(client: AsyncClient) -> None:
    """Read mostly; now and then write."""
    user = f"/users/{random.randint(1, USERS)}"
    kind = random.random()
    if kind < 0.7:
        await client.get(user)
    elif kind < 0.9:
        await client.get("/users?limit=50")
    elif kind < 0.95:
        await client.patch(user, json={"full_name": f"Somebody {random.random()}"})
    else:
        await client.post("/users", json={"email": f"{random.getrandbits(64)}@example.org"})
    await asyncio.sleep(random.uniform(0, 0.1))


async def report(client: AsyncClient) -> None:
    """Ask for the report."""
    await client.get("/reports/names")


async def swap(client: AsyncClient) -> None:
    """Ask for two of few users, in any order."""
    one, other = random.sample(range(1, 7), 2)
    await client.post(f"/swap/{one}/{other}")
    await asyncio.sleep(random.uniform(0, 0.05))


async def repeat(what: Client, client: AsyncClient, seconds: float) -> None:
    """Do something again and again."""
    end = time.monotonic() + seconds
    await asyncio.sleep(random.uniform(0, 0.2))
    while time.monotonic() < end:
        await what(client)


class Server:
    """The database server, which can be stopped and started: its data last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = server.reachable(server.find(), folder)
        self._data = folder / "data"
        self._data.mkdir()
        server.own(self._data)
        server.initialize(self._program, self._data)
        self.url = make_url(server.url(folder))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it can be used. Raises RuntimeError when it does not."""
        self._process = subprocess.Popen(
            server.command(self._program, self._data, self._folder, True),
            stdin=subprocess.DEVNULL,
            stdout=(self._folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            cwd="/",
            **server.identity(),
        )
        wait_for(lambda: server.is_ready(self._program, self._folder), self._process)

    def stop(self) -> None:
        """End it in order, if it runs."""
        if self._process is not None:
            self._process.send_signal(server.STOP)
            self._process.wait(START_LIMIT)
            self._process = None


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something is true. Raises RuntimeError when it is not in time."""
    deadline = time.monotonic() + START_LIMIT
    while not condition():
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"{process.args!r} did not start")
        time.sleep(0.02)


@contextmanager
def filled_server() -> Iterator[Server]:
    """Run a server with a migrated database of users."""
    # The path of a socket may have some hundred bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="db-", dir="/tmp"))
    try:
        server.own(folder)
        running = Server(folder)
        try:
            running.start()
            url = running.url.render_as_string(hide_password=False)
            subprocess.run(
                [sys.executable, "-m", "alembic", "upgrade", "head"],
                cwd=PROJECT,
                env=os.environ | SHOP | {"DATABASE_URL": url},
                check=True,
                capture_output=True,
            )
            asyncio.run(fill(running.url))
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def fill(url: URL) -> None:
    """Create the users."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        rows = [{"email": f"{n}@example.com", "full_name": f"User {n}"} for n in range(USERS)]
        await connection.execute(insert(User), rows)
    await engine.dispose()


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def prometheus(folder: Path, service: str) -> Iterator[str]:
    """Run Prometheus, which asks a service every second; give its address."""
    address = f"127.0.0.1:{free_port()}"
    scrape = {
        "job_name": "shop",
        "scrape_interval": SCRAPE,
        "scrape_timeout": SCRAPE,
        "static_configs": [{"targets": [service]}],
    }
    rules = [str(PROJECT / "monitoring" / "alerts.yml")]
    config = folder / "prometheus.yml"
    # JSON is YAML as well.
    config.write_text(json.dumps({"scrape_configs": [scrape], "rule_files": rules}))
    log = folder / "prometheus.log"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
        ],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
    )

    def is_ready() -> bool:
        try:
            with urlopen(f"http://{address}/-/ready") as answer:
                return bool(answer.status == 200)
        except URLError:
            return False

    try:
        wait_for(is_ready, process)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(START_LIMIT)


@asynccontextmanager
async def state_of(database: Server, phase: Phase) -> AsyncIterator[None]:
    """Keep the database away for a phase, if that is what it is about."""
    if phase.away:
        await asyncio.to_thread(database.stop)
    yield
    if phase.away:
        await asyncio.to_thread(database.start)


async def play(address: str, database: Server, scale: float) -> list[dict[str, Any]]:
    """Play all phases; return their names and when they were, in seconds since the epoch."""
    played = []
    limits = Limits(max_connections=None)
    async with AsyncClient(base_url=address, limits=limits, timeout=20) as client:
        for phase in PHASES:
            begin = time.time()
            kinds = {browse: phase.browsers, report: phase.reporters, swap: phase.swappers}
            async with state_of(database, phase), asyncio.TaskGroup() as clients:
                for what, count in kinds.items():
                    for _ in range(count):
                        clients.create_task(repeat(what, client, scale * phase.seconds))
            played.append(asdict(phase) | {"begin": begin, "end": time.time()})
            print(f"{phase.name or 'calm'}: {time.time() - begin:.0f} s", flush=True)
    return played


def ask(address: str, expr: str, begin: float, end: float) -> list[dict[str, Any]]:
    """Return the series that an expression gives, second by second."""
    expr = expr.replace("$__rate_interval", RATE_INTERVAL).replace("$job", "shop")
    query = urlencode({"query": expr, "start": begin, "end": end, "step": 1})
    with urlopen(f"{address}/api/v1/query_range?{query}") as answer:
        series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return series


def look(address: str, begin: float, end: float) -> dict[int, list[dict[str, Any]]]:
    """Return for each panel of the dashboard the series of its targets: names and points."""
    dashboard = json.loads((PROJECT / "monitoring" / "dashboard.json").read_text())
    seen: dict[int, list[dict[str, Any]]] = {}
    for panel in dashboard["panels"]:
        seen[panel["id"]] = [
            {"name": legend(target["legendFormat"], series["metric"]), "points": series["values"]}
            for target in panel["targets"]
            for series in ask(address, target["expr"], begin, end)
        ]
    return seen


def legend(text: str, labels: dict[str, str]) -> str:
    """Return a series' name, as Grafana makes it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), text)


async def run(database: Server, folder: Path, scale: float) -> dict[str, Any]:
    """Run the service and Prometheus, play, and return what was seen."""
    url = database.url.render_as_string(hide_password=False)
    with serve("shop:app", **SHOP, DATABASE_URL=url) as service:
        [port] = re.findall(r"Metrics: http://[\d.]+:(\d+)/", service.log.read_text())
        with prometheus(folder, f"127.0.0.1:{port}") as address:
            # Some scrapes of the service at rest, from which the first rates begin.
            await asyncio.sleep(4)
            phases = await play(service.url, database, scale)
            begin, end = phases[0]["begin"], phases[-1]["end"]
            return {"phases": phases, "panels": look(address, begin, end)}


def main() -> None:
    """Play, and write what Prometheus has seen."""
    path, scale = Path(sys.argv[1]), float(sys.argv[2])
    # Drivers warn of things that are no matter here, and a database is away on purpose.
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, filled_server() as database:
        path.write_text(json.dumps(asyncio.run(run(database, Path(folder), scale))))


if __name__ == "__main__":
    main()
