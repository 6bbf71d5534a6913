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
from bench.shares import PARTS, measure_shares
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

UNITS = ": requests a second, milliseconds, share of the reference, shares of a request's time"
FORMATS = {"rate": ",.0f", "p50": ".1f", "p99": ".1f", "errors": ".0f", "share": ".2f"}
FORMATS |= dict.fromkeys(PARTS, ".0%")

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
    return rows


def check(routes: Routes, service: str, reference: str, options: argparse.Namespace) -> None:
    """Raise SystemExit that names the routes which are slower than their baseline."""
    baseline: dict[str, float] = json.loads(BASELINE.read_text())
    names = [name for name in baseline if name in routes.weights]
    said = [f"{name}: not measured" for name in baseline if name not in routes.weights]
    for _ in range(TRIES):
        rows = measure(routes, names, service, reference, options)
        show(f"{CLIENTS} clients", rows)
        names = [name for name in names if rows[name]["lucky_share"] < ALLOWED * baseline[name]]
        if not names:
            break
    for name in names:
        said.append(f"{name}: {rows[name]['lucky_share'] / baseline[name]:.0%} of its baseline")
    if said:
        sys.exit("\nSlower than before:\n  " + "\n  ".join(said))
    print("\nNo route is slower than its baseline.")


def sweep(routes: Routes, sizes: list[int], seconds: float) -> dict[int, Row]:
    """Ask for all with pools of several sizes, upwards and downwards in turn.

    The best round of each counts: whatever else the machine does only slows it down.
    """
    best: dict[int, Row] = {}
    for size in [*sizes, *reversed(sizes)]:
        all_routes = [list(routes.weights)]
        [row] = measure_shares(routes, all_routes, CLIENTS_OF_POOL, seconds, POOL_SIZE=str(size))
        # A busy worker lets all the rest of the time look like the database's.
        row = {key: value for key, value in row.items() if key not in PARTS[1:]}
        best[size] = max(best.get(size, row), row, key=lambda row: row["rate"])
    return best


def show(title: str, rows: Mapping[Any, Row]) -> None:
    """Print those figures that there are as a table."""
    columns = {key: FORMATS[key] for key in FORMATS if all(key in row for row in rows.values())}
    lines = [f"\n{title}{UNITS}", " " * 40 + "".join(f"{key:>9}" for key in columns)]
    for name, row in rows.items():
        numbers = (f"{row[key]:9{form}}" for key, form in columns.items())
        lines.append(f"  {name:<38}" + "".join(numbers))
    print("\n".join(lines), flush=True)


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
    with serve("app.main:app") as service, serve("bench.reference:app") as reference:
        routes = Routes(service)
        names = list(routes.weights)
        load(reference, BARE, CLIENTS, WARM_UP)
        routes.ask(service, names, CLIENTS, WARM_UP)
        if options.check:
            return check(routes, service, reference, options)
        rows = measure(routes, names, service, reference, options)
    if options.save:
        show(f"{CLIENTS} clients", rows)
        baseline = {name: round(row["share"], 4) for name, row in rows.items()}
        BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")
        return print(f"\nWritten: {BASELINE}")
    # By one client: several make each other wait for the worker, which would look like the database.
    parts = measure_shares(routes, [[name] for name in names], 1, 3 * options.seconds)
    rows = {name: row | rows[name] for name, row in zip(names, parts, strict=True)}
    show(f"{CLIENTS} clients", rows)
    allowed = allowed_connections(url)
    sizes = sweep(routes, [n for n in options.pool_sizes if n <= allowed], 3 * options.seconds)
    least = enough({size: row["rate"] for size, row in sizes.items()})
    show(f"All, {CLIENTS_OF_POOL} clients, by POOL_SIZE", sizes)
    waits = [f"with {size} {row['waiting']:.0%}" for size, row in sizes.items()]
    print(
        f"\nOf its time a request waits for a connection: {', '.join(waits)}.\nPOOL_SIZE={least} is"
        " enough: more bring less than 5 % more requests. A server further away needs more.\nIt"
        f" allows {allowed} connections: {allowed // least} workers of {least}; with more workers"
        f" divide {allowed} by their number."
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
