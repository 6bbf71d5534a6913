"""`python -m bench`: measure this service's routes, and find its pool's size."""

import json
import logging
import os
import shutil
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from operator import itemgetter
from typing import Any
from uuid import uuid4

from sqlalchemy import URL

from bench.load import Figures, load
from bench.routes import Routes
from dev import database
from tests.process import PROJECT, SETTINGS, serve

BASELINE = PROJECT / "bench/baseline.json"
RESULTS = PROJECT / "bench/results.json"

# Few for a single route, so that one that only waits is slower too; more for sizes of the pool.
CLIENTS, CLIENTS_OF_POOL = 4, 64

# A route has fallen when it has less than this part of its baseline in three quarters of the rounds,
# in each of some tries: a noisy moment of the machine is not the service's.
ALLOWED, TRIES = 0.8, 3

# A pool is large enough when larger ones bring less than this share more.
ENOUGH = 0.95

UNITS = "requests a second, milliseconds, share of the reference, parts of a request's time"
PARTS = {"waiting": ".0%", "database": ".0%", "rest": ".0%"}
FORMATS = {"rate": ",.0f", "p50": ".1f", "p99": ".1f", "errors": ".0f", "share": ".2f"} | PARTS


# By a route's name, or a pool's size.
Rows = dict[Any, Figures]


def measure(routes: Routes, names: list[str], reference: str, options: Namespace) -> Rows:
    """Measure routes, each in turn with the reference, so that noise hits both."""
    taken: dict[str, list[Figures]] = {name: [] for name in names}
    for name in options.rounds * names:
        bare = load(reference, [("GET", "/", "")], CLIENTS, options.seconds)
        row = routes.ask(routes.service, [name], CLIENTS, options.seconds)
        taken[name].append(row | {"share": row["rate"] / max(1, bare["rate"])})
    rows = {}
    for name, rounds in taken.items():
        rounds.sort(key=itemgetter("share"))
        rows[name] = rounds[len(rounds) // 2]
        rows[name]["errors"] = sum(row["errors"] for row in rounds)
        # What it reached in a quarter of the rounds.
        rows[name]["lucky_share"] = rounds[-1 - len(rounds) // 4]["share"]
    return rows


def sweep(routes: Routes, sizes: list[int], seconds: int) -> Rows:
    """Ask for all routes with pools of several sizes, upwards and downwards in turn."""
    best: Rows = {}
    for size in [*sizes, *reversed(sizes)]:
<% if cookiecutter.sync_bridge == "yes" %>
        with serve(POOL_SIZE=str(size), SYNC_POOL_SIZE=str(max(1, size // 4))) as service:
<% else %>
        with serve(POOL_SIZE=str(size)) as service:
<% endif %>
            # It opens its connections.
            routes.ask(service, list(routes.weights), CLIENTS_OF_POOL, seconds)
            row = routes.divide(service, list(routes.weights), CLIENTS_OF_POOL, 2 * seconds)
        # A busy worker lets all the rest of the time look like the database's.
        row["rest"] += row.pop("database")
        # Whatever else the machine does only slows it down.
        best[size] = max(best.get(size, row), row, key=itemgetter("rate"))
    return best


def show(title: str, rows: Rows) -> None:
    """Print a table of those figures that there are, with a bar for each rate and its parts."""
    columns = [key for key in FORMATS if all(key in row for row in rows.values())]
    print(f"\n{title}: {UNITS}\n{'':40}" + "".join(f"{key:>9}" for key in columns))
    longest = max((row["rate"] for row in rows.values()), default=0) or 1
    for case, row in rows.items():
        numbers = "".join(f"{row[key]:9{FORMATS[key]}}" for key in columns)
        bar = (key[0] * round(40 * row["rate"] / longest * row.get(key, 0)) for key in PARTS)
        print(f"  {case:<38}{numbers}  {''.join(bar)}".rstrip(), flush=True)


def run(url: URL, options: Namespace) -> None:
    """Do what the command line asks for."""
    allowed = database.max_connections(url)
    sizes = [size for size in options.pool_sizes if size <= allowed]
    if sizes != options.pool_sizes:
        print(f"--pool-sizes: the server allows {allowed} connections")
    if not sizes:
        sys.exit(1)
    baseline = json.loads(BASELINE.read_text()) if options.check else {}
    with serve() as service, serve("bench.reference:app") as reference:
        routes = Routes(service)
        rows: Rows = {}
        slow = list(routes.weights)
        for _ in range(TRIES):
            rows |= measure(routes, slow, reference.url, options)
            least = {name: ALLOWED * baseline.get(name, 0) for name in slow}
            slow = [name for name in slow if rows[name]["lucky_share"] < least[name]]
        # By one client: several wait for the worker, which would look like the database.
        for name in rows if options.metrics else ():
            rows[name] = routes.divide(service, [name], 1, options.seconds) | rows[name]
    show(f"{CLIENTS} clients", rows)
    if options.check:
        parts = {name: rows[name]["lucky_share"] / baseline[name] for name in slow}
        said = [f"{name}: {part:.0%} of its baseline" for name, part in parts.items()]
        said += [f"{name}: not measured" for name in baseline if name not in rows]
        if said:
            sys.exit("\nSlower than before:\n  " + "\n  ".join(said))
        return print("\nNo route is slower than its baseline.")
    if options.save:
        shares = {name: round(row["share"], 4) for name, row in rows.items()}
        BASELINE.write_text(json.dumps(shares, indent=2) + "\n")
        return print(f"\nWritten: {BASELINE}")
    pools = sweep(routes, sizes, options.seconds)
    show(f"All, {CLIENTS_OF_POOL} clients, by POOL_SIZE", pools)
    most = max(row["rate"] for row in pools.values())
    enough = min(size for size, row in pools.items() if row["rate"] >= ENOUGH * most)
    print(
        f"\nPOOL_SIZE={enough} is enough: more bring less than 5 % more requests. A server further"
        f" away needs more.\nIt allows {allowed} connections: {allowed // enough} workers of {enough};"
        f" with more workers divide {allowed} by their number."
    )
    outcome: dict[str, Any] = {"server": database.describe(url).partition(" (")[0]}
    outcome |= {"max_connections": allowed}
    outcome |= {"routes": rows, "pool_sizes": pools, "enough": enough}
    RESULTS.write_text(json.dumps(outcome, indent=2) + "\n")
    print(f"\nWritten: {RESULTS}")


def main() -> None:
    """Read the command line, and measure on a database of its own."""
    parser = ArgumentParser("python -m bench", formatter_class=ArgumentDefaultsHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--save", action="store_true", help="keep the routes' shares as a baseline")
    mode.add_argument("--check", action="store_true", help="fail if one fell by more than 20 %%")
    parser.add_argument("--seconds", type=int, default=1, help="each measurement takes")
    parser.add_argument("--rounds", type=int, default=4, help="of all routes in turn")
    parser.add_argument(
        "--pool-sizes", type=int, nargs="+", default=[<% if cookiecutter.sync_bridge == "no" %>1, <% endif %>2, 5, 10, 20, 50], help="to try out"
    )
    options = parser.parse_args()
    if not all(0 < n <= 1000 for n in (options.seconds, options.rounds, *options.pool_sizes)):
        parser.error("--seconds, --rounds and --pool-sizes take numbers above 0, up to 1000")
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk: apt-get install wrk, dnf install wrk, brew install wrk.")
    if options.check and not BASELINE.exists():
        sys.exit('There is no bench/baseline.json: write one by `make bench ARGS="--save"`.')
    # Drivers and clients tell of things that are no matter here.
    logging.basicConfig(level=logging.ERROR)
    # Metrics cost a few requests a second, which a baseline leaves out.
    options.metrics = not (options.save or options.check)
    os.environ.update(SETTINGS, METRICS_PORT="9464" if options.metrics else "")
    try:
        with database.running() as server, database.migrated(server, f"bench_{uuid4().hex}") as url:
            run(url, options)
    except (database.NoServer, RuntimeError) as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
