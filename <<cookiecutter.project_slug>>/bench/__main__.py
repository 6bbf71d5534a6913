"""`python -m bench`: measure this service's routes, and find its pool's size."""

import argparse
import asyncio
import json
import logging
import random
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from httpx2 import Client, Limits
from sqlalchemy import URL

from app.core.db import MAX_CONNECTIONS
from bench.load import HOW_TO_GET_WRK, Figures, load, median
from bench.routes import Routes
from bench.servers import PROJECT, migrated_database, serve
from dev import database

BASELINE = PROJECT / "bench" / "baseline.json"

# Few for a single route, so that one that only waits is slower too; more for sizes of the pool.
CLIENTS, CLIENTS_OF_POOL = 4, 64

# Seconds in which a new process opens its connections and warms up.
WARM_UP = 0.3

# A route has fallen when it has less than this part of its baseline in three quarters of the rounds,
# in each of some tries: a noisy moment of the machine is not the service's.
ALLOWED, TRIES = 0.8, 3

# A pool is large enough when larger ones bring less than this share more.
ENOUGH = 0.95

# The numbers of workers to advise a POOL_SIZE for.
WORKERS = (1, 2, 4, 8, 16, 32)

JSON = {"content-type": "application/json"}

# A service may close a connection after an error, while the next request is on its way.
CLOSED_AFTER_USE = Limits(max_keepalive_connections=0)

HEAD = f"{'requests/s':>10}  {'p50 ms':>7}  {'p99 ms':>7}  {'errors':>6}"


@dataclass
class Bench:
    """The service and the reference, both running, and what to ask for how long."""

    service: str
    reference: str
    routes: Routes
    seconds: float

    def ask(self, address: str, names: Sequence[str], clients: int, seconds: float) -> Figures:
        """Ask for a mix of routes, by their weights."""
        weights = [self.routes.weights[name] for name in names]
        # More than a worker answers, so that nothing is created twice; reads may come again.
        writes = any(not name.startswith("GET ") for name in names)
        count = int(10_000 * (seconds + 0.5)) if writes else 1000
        wanted = random.choices(names, weights, k=count)
        requests = map(self.routes.request, wanted)
        return load(address, requests, clients, seconds, self.routes.headers)

    def measure(self, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
        """Measure routes, each in turn with the reference, so that noise hits both."""
        taken: dict[str, list[Figures]] = {name: [] for name in names}
        shares: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                bare = load(self.reference, [("GET", "/", "")], CLIENTS, self.seconds)
                taken[name].append(self.ask(self.service, [name], CLIENTS, self.seconds))
                shares[name].append(taken[name][-1].rate / max(1, bare.rate))
        found = {}
        print(f"\n{f'{CLIENTS} clients':<40} {HEAD}   share of the reference")
        for name, figures in taken.items():
            share, lucky = statistics.median(shares[name]), sorted(shares[name])[-1 - rounds // 4]
            found[name] = asdict(median(figures)) | {"share": share, "lucky_share": lucky}
            print(f"{columns(name, median(figures))}  {share:6.2f}", flush=True)
        return found

    def fallen(self, rounds: int) -> list[str]:
        """Say which routes are slower than the baseline."""
        baseline: dict[str, float] = json.loads(BASELINE.read_text())
        said = [f"{name}: not measured" for name in baseline.keys() - self.routes.weights.keys()]
        slow = {name: 0.0 for name in baseline if name in self.routes.weights}
        for _ in range(TRIES):
            rows = self.measure(list(slow), rounds)
            parts = {name: rows[name]["lucky_share"] / baseline[name] for name in slow}
            slow = {name: part for name, part in parts.items() if part < ALLOWED}
            if not slow:
                break
        return said + [f"{name}: {part:.0%} of its baseline" for name, part in slow.items()]

    def sweep(self, url: URL, sizes: list[int], rounds: int) -> dict[int, Figures]:
        """Ask for all with pools of several sizes, upwards and downwards in turn.

        The best round of each counts: whatever else the machine does only slows it down.
        """
        names = list(self.routes.weights)
        taken: dict[int, list[Figures]] = {size: [] for size in sizes}
        for number in range(rounds):
            for size in sizes if number % 2 == 0 else reversed(sizes):
                with serve("app.main:app", url, size) as address:
                    self.ask(address, names, CLIENTS_OF_POOL, WARM_UP)
                    figures = self.ask(address, names, CLIENTS_OF_POOL, 3 * self.seconds)
                    taken[size].append(figures)
        return {size: max(rows, key=lambda row: row.rate) for size, rows in taken.items()}


def columns(name: str, figures: Figures) -> str:
    """Return figures as columns below `HEAD`."""
    numbers = f"{figures.rate:10,.0f}  {figures.p50:7.1f}  {figures.p99:7.1f}  {figures.errors:6}"
    return f"  {name:<38} {numbers}"


def enough(sizes: Mapping[int, Figures]) -> int:
    """Return the smallest pool beyond which more connections stop helping."""
    most = max(figures.rate for figures in sizes.values())
    return min(size for size, figures in sizes.items() if figures.rate >= ENOUGH * most)


def allowed_connections(url: URL) -> int:
    """Return how many connections the server allows to a service."""
<% if cookiecutter.database == "postgresql" %>
    # There is no pooler between.
    question = MAX_CONNECTIONS.text.replace(":process", "pg_backend_pid()")
    return int(asyncio.run(database.execute(url, question)))
<% else %>
    return int(asyncio.run(database.execute(url, MAX_CONNECTIONS.text)))
<% endif %>


def advise(pool_size: int, allowed: int) -> dict[int, int]:
    """Return the pool size for each number of workers, as far as they fit below the limit."""
    return {
        workers: min(pool_size, allowed // workers) for workers in WORKERS if workers <= allowed
    }


def run(url: URL, options: argparse.Namespace, bench: Bench) -> None:
    """Do what the command line asks for. Raises SystemExit when a route has fallen."""
    if options.check:
        if said := bench.fallen(options.rounds):
            sys.exit("\nSlower than before:\n  " + "\n  ".join(said))
        print("\nNo route is slower than its baseline.")
        return
    routes = bench.measure(list(bench.routes.weights), options.rounds)
    if options.save:
        shares = {name: round(row["share"], 4) for name, row in routes.items()}
        BASELINE.write_text(json.dumps(shares, indent=2) + "\n")
        print(f"\nWritten: {BASELINE}")
        return
    allowed = allowed_connections(url)
    sizes = bench.sweep(url, [n for n in options.pool_sizes if n <= allowed], 2)
    least = enough(sizes)
    advice = advise(least, allowed)
    print(f"\n{f'all routes, {CLIENTS_OF_POOL} clients':<40} {HEAD}")
    for size, figures in sizes.items():
        print(columns(f"POOL_SIZE={size}", figures) + ("  <- enough" if size == least else ""))
    print(
        f"\nMore than {least} connections a worker stop helping. The server allows {allowed}; one"
        " further away needs more.\n\nworkers   "
        + "".join(f"{workers:6}" for workers in advice)
        + "\nPOOL_SIZE "
        + "".join(f"{size:6}" for size in advice.values())
    )
    outcome = {
        "server": database.describe(url).partition(" (")[0],
        "clients": CLIENTS,
        "routes": routes,
        "pool_sizes": {size: asdict(figures) for size, figures in sizes.items()},
        "enough": least,
        "max_connections": allowed,
        "pool_size_by_workers": advice,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "bench.json").write_text(json.dumps(outcome, indent=2) + "\n")
    # Nothing else here needs matplotlib.
    from bench import chart

    chart.draw(outcome, options.results / "bench.svg")
    print(f"\nWritten: {options.results}/bench.json, bench.svg")


def main() -> None:
    """Read the command line, start what is measured, and measure it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="keep the routes' shares as a baseline")
    parser.add_argument("--check", action="store_true", help="fail if one fell by more than 20 %%")
    parser.add_argument("--seconds", type=float, default=0.3, help="each measurement takes")
    parser.add_argument("--rounds", type=int, default=9, help="of all routes in turn")
    parser.add_argument("--pool-size", type=int, default=20, help="for the routes")
    parser.add_argument(
        "--pool-sizes", type=int, nargs="+", default=[<% if cookiecutter.sync_bridge == "no" %>1, <% endif %>2, 5, 10, 20, 50], help="to try out"
    )
    parser.add_argument(
        "--results", type=Path, default=PROJECT / "bench" / "results", help="where to write"
    )
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit(HOW_TO_GET_WRK)
    if options.check and not BASELINE.exists():
        sys.exit('There is no bench/baseline.json: write one by `make bench ARGS="--save"`.')
    # Drivers and clients tell of things that are no matter here.
    logging.basicConfig(level=logging.ERROR)
    try:
        with (
            migrated_database() as url,
            serve("bench.reference:app", url, options.pool_size) as reference,
            serve("app.main:app", url, options.pool_size) as service,
            Client(base_url=service, headers=JSON, limits=CLOSED_AFTER_USE) as client,
        ):
            bench = Bench(service, reference, Routes(client), options.seconds)
            bench.ask(service, list(bench.routes.weights), CLIENTS_OF_POOL, WARM_UP)
            load(reference, [("GET", "/", "")], CLIENTS_OF_POOL, WARM_UP)
            run(url, options, bench)
    except (database.NoServer, RuntimeError) as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
