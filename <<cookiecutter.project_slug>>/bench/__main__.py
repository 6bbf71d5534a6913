"""`python -m bench`: measure this service's routes, and find its pool's size."""

import argparse
import asyncio
import json
import logging
import shutil
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL

from app.core.db import MAX_CONNECTIONS
from bench.load import HOW_TO_GET_WRK, Figures, load, median, migrated_database, serve
from bench.routes import Routes
from dev import database
from tests.process import PROJECT

BASELINE = PROJECT / "bench" / "baseline.json"
RESULTS = PROJECT / "bench" / "results"

# Few for a single route, so that one that only waits is slower too; more for sizes of the pool.
CLIENTS, CLIENTS_OF_POOL = 4, 64

# Seconds in which a new process opens its connections and warms up.
WARM_UP = 0.3

# A route has fallen when it has less than this part of its baseline in three quarters of the rounds,
# in each of some tries: a noisy moment of the machine is not the service's.
ALLOWED, TRIES = 0.8, 3

# A pool is large enough when larger ones bring less than this share more.
ENOUGH = 0.95

BARE = [("GET", "/", "")]

Row = dict[str, Any]


def measure(
    routes: Routes, names: list[str], service: str, reference: str, options: argparse.Namespace
) -> dict[str, Row]:
    """Measure routes, each in turn with the reference, so that noise hits both."""
    taken: dict[str, list[Figures]] = {name: [] for name in names}
    shares: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            bare = load(reference, BARE, CLIENTS, options.seconds)
            taken[name].append(routes.ask(service, [name], CLIENTS, options.seconds))
            shares[name].append(taken[name][-1].rate / max(1, bare.rate))
    rows = {name: median(taken[name])._asdict() for name in names}
    for name, row in rows.items():
        row["share"] = statistics.median(shares[name])
        # What it reached in a quarter of the rounds.
        row["lucky_share"] = sorted(shares[name])[-1 - options.rounds // 4]
    show(f"{CLIENTS} clients, and share of the reference", rows)
    return rows


def sweep(routes: Routes, sizes: list[int], seconds: float) -> dict[int, Row]:
    """Ask for all with pools of several sizes, upwards and downwards in turn.

    The best round of each counts: whatever else the machine does only slows it down.
    """
    names, best = list(routes.weights), dict[int, Row]()
    for size in [*sizes, *reversed(sizes)]:
        with serve("app.main:app", POOL_SIZE=str(size)) as service:
            routes.ask(service, names, CLIENTS_OF_POOL, WARM_UP)
            row = routes.ask(service, names, CLIENTS_OF_POOL, seconds)._asdict()
        best[size] = max(best.get(size, row), row, key=lambda row: row["rate"])
    return best


def show(title: str, rows: Mapping[Any, Row]) -> None:
    """Print figures as a table."""
    print(f"\n{title:<42} requests/s   p50 ms   p99 ms  errors")
    for name, row in rows.items():
        line = f"  {name:<40} {row['rate']:10,.0f}  {row['p50']:7.1f}  {row['p99']:7.1f}"
        share = f"  {row['share']:6.2f}" if "share" in row else ""
        print(f"{line}  {row['errors']:6.0f}{share}", flush=True)


def check(routes: Routes, service: str, reference: str, options: argparse.Namespace) -> None:
    """Hold routes against the baseline. Raises SystemExit that names those which are slower."""
    baseline: dict[str, float] = json.loads(BASELINE.read_text())
    slow = {name: 0.0 for name in baseline if name in routes.weights}
    for _ in range(TRIES):
        rows = measure(routes, list(slow), service, reference, options)
        parts = {name: row["lucky_share"] / baseline[name] for name, row in rows.items()}
        slow = {name: part for name, part in parts.items() if part < ALLOWED}
        if not slow:
            break
    said = [f"{name}: not measured" for name in baseline.keys() - routes.weights.keys()]
    said += [f"{name}: {part:.0%} of its baseline" for name, part in slow.items()]
    if said:
        sys.exit("\nSlower than before:\n  " + "\n  ".join(said))
    print("\nNo route is slower than its baseline.")


def enough(rates: Mapping[int, float]) -> int:
    """Return the smallest pool beyond which more connections stop helping."""
    return min(size for size, rate in rates.items() if rate >= ENOUGH * max(rates.values()))


def allowed_connections(url: URL) -> int:
    """Return how many connections the server allows to a service."""
<% if cookiecutter.database == "postgresql" %>
    # There is no pooler between.
    question = MAX_CONNECTIONS.text.replace(":process", "pg_backend_pid()")
    return int(asyncio.run(database.execute(url, question)))
<% else %>
    return int(asyncio.run(database.execute(url, MAX_CONNECTIONS.text)))
<% endif %>


def run(url: URL, options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    with serve("bench.reference:app") as reference, serve("app.main:app") as service:
        routes = Routes(service)
        names = list(routes.weights)
        load(reference, BARE, CLIENTS, WARM_UP)
        routes.ask(service, names, CLIENTS, WARM_UP)
        if options.check:
            return check(routes, service, reference, options)
        rows = measure(routes, names, service, reference, options)
    if options.save:
        baseline = {name: round(row["share"], 4) for name, row in rows.items()}
        BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")
        return print(f"\nWritten: {BASELINE}")
    allowed = allowed_connections(url)
    sizes = sweep(routes, [n for n in options.pool_sizes if n <= allowed], 3 * options.seconds)
    least = enough({size: row["rate"] for size, row in sizes.items()})
    show(f"All routes, {CLIENTS_OF_POOL} clients", sizes)
    print(
        f"\nPOOL_SIZE={least} is enough: more stop helping, unless the server is further away. It"
        f" allows {allowed} connections: with more than {allowed // least} workers, {allowed} by"
        " their number."
    )
    outcome = {
        "server": database.describe(url).partition(" (")[0],
        "clients": CLIENTS,
        "routes": rows,
        "pool_sizes": sizes,
        "enough": least,
        "max_connections": allowed,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.json").write_text(json.dumps(outcome, indent=2) + "\n")
    # Nothing else here needs matplotlib.
    from bench import chart

    chart.draw(outcome, RESULTS / "bench.svg")
    print(f"\nWritten: {RESULTS}/bench.json, bench.svg")


def main() -> None:
    """Read the command line, and measure on a database of its own."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help="keep the routes' shares as a baseline")
    parser.add_argument("--check", action="store_true", help="fail if one fell by more than 20 %%")
    parser.add_argument("--seconds", type=float, default=0.3, help="each measurement takes")
    parser.add_argument("--rounds", type=int, default=9, help="of all routes in turn")
    parser.add_argument(
        "--pool-sizes", type=int, nargs="+", default=[<% if cookiecutter.sync_bridge == "no" %>1, <% endif %>2, 5, 10, 20, 50], help="to try out"
    )
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit(HOW_TO_GET_WRK)
    if options.check and not BASELINE.exists():
        sys.exit('There is no bench/baseline.json: write one by `make bench ARGS="--save"`.')
    # Drivers and clients tell of things that are no matter here.
    logging.basicConfig(level=logging.ERROR)
    try:
        with migrated_database() as url:
            run(url, options)
    except (database.NoServer, RuntimeError) as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
