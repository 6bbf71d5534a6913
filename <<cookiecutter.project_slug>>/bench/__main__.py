"""`python -m bench`: measure this service's routes, and find its pool's size."""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from sqlalchemy import URL

from bench.load import Figures, load, migrated_database, serve
from bench.routes import Routes
from dev import database
from tests.process import PROJECT

BASELINE = PROJECT / "bench" / "baseline.json"
RESULTS = PROJECT / "bench" / "results"

# Few for a single route, so that one that only waits is slower too; more for sizes of the pool.
CLIENTS, CLIENTS_OF_POOL = 4, 64

# A route has fallen when it has less than this part of its baseline in three quarters of the rounds,
# in each of some tries: a noisy moment of the machine is not the service's.
ALLOWED, TRIES = 0.8, 3

# A pool is large enough when larger ones bring less than this share more.
ENOUGH = 0.95

UNITS = "requests a second, milliseconds, share of the reference, shares of a request's time"
FORMATS = {"rate": ",.0f", "p50": ".1f", "p99": ".1f", "errors": ".0f", "share": ".2f"}
FORMATS |= {"waiting": ".0%", "database": ".0%", "rest": ".0%"}

BARE = [("GET", "/", "")]

# The first that is tried.
METRICS_PORT = "9464"


def measure(
    routes: Routes, names: list[str], reference: str, options: argparse.Namespace
) -> dict[str, Figures]:
    """Measure routes, each in turn with the reference, so that noise hits both."""
    taken: dict[str, list[Figures]] = {name: [] for name in names}
    for name in options.rounds * names:
        bare = load(reference, BARE, CLIENTS, options.seconds)
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


def check(routes: Routes, reference: str, options: argparse.Namespace) -> None:
    """Raise SystemExit that names the routes which are slower than their baseline."""
    baseline: dict[str, float] = json.loads(BASELINE.read_text())
    names = [name for name in baseline if name in routes.weights]
    said = [f"{name}: not measured" for name in baseline if name not in routes.weights]
    for _ in range(TRIES):
        rows = measure(routes, names, reference, options)
        show(f"{CLIENTS} clients", rows)
        names = [name for name in names if rows[name]["lucky_share"] < ALLOWED * baseline[name]]
        if not names:
            break
    for name in names:
        said.append(f"{name}: {rows[name]['lucky_share'] / baseline[name]:.0%} of its baseline")
    if said:
        sys.exit("\nSlower than before:\n  " + "\n  ".join(said))
    print("\nNo route is slower than its baseline.")


def sweep(routes: Routes, sizes: list[int], seconds: float) -> dict[int, Figures]:
    """Ask for all routes with pools of several sizes, upwards and downwards in turn."""
    best: dict[int, Figures] = {}
    for size in [*sizes, *reversed(sizes)]:
        with serve("app.main:app", POOL_SIZE=str(size), METRICS_PORT=METRICS_PORT) as service:
            # It opens its connections.
            routes.ask(service, list(routes.weights), CLIENTS_OF_POOL, seconds / 3)
            row = routes.divide(service, list(routes.weights), CLIENTS_OF_POOL, seconds)
        # A busy worker lets all the rest of the time look like the database's.
        del row["database"], row["rest"]
        # Whatever else the machine does only slows it down.
        best[size] = max(best.get(size, row), row, key=itemgetter("rate"))
    show(f"All, {CLIENTS_OF_POOL} clients, by POOL_SIZE", best)
    return best


def show(title: str, rows: Mapping[Any, Figures]) -> None:
    """Print those figures that there are as a table."""
    columns = [key for key in FORMATS if all(key in row for row in rows.values())]
    print(f"\n{title}: {UNITS}\n{'':40}" + "".join(f"{key:>9}" for key in columns))
    for name, row in rows.items():
        numbers = "".join(f"{row[key]:9{FORMATS[key]}}" for key in columns)
        print(f"  {name:<38}{numbers}", flush=True)


def run(url: URL, options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    allowed = database.max_connections(url)
    sizes = [size for size in options.pool_sizes if size <= allowed]
    if not sizes:
        raise RuntimeError(f"--pool-sizes: the server allows {allowed} connections")
    for size in set(options.pool_sizes).difference(sizes):
        print(f"Left out: POOL_SIZE={size}: the server allows {allowed} connections")
    # Metrics cost a few requests a second, which a baseline leaves out.
    port = "" if options.check or options.save else METRICS_PORT
    with (
        serve("app.main:app", METRICS_PORT=port) as service,
        serve("bench.reference:app") as reference,
    ):
        routes = Routes(service)
        names = list(routes.weights)
        # They open their connections.
        load(reference.url, BARE, CLIENTS, options.seconds)
        routes.ask(service, names, CLIENTS, options.seconds)
        if options.check:
            return check(routes, reference.url, options)
        rows = measure(routes, names, reference.url, options)
        if not options.save:
            # By one client: several wait for the worker, which would look like the database.
            for name in names:
                rows[name] = routes.divide(service, [name], 1, 3 * options.seconds) | rows[name]
    show(f"{CLIENTS} clients", rows)
    if options.save:
        baseline = {name: round(row["share"], 4) for name, row in rows.items()}
        BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")
        return print(f"\nWritten: {BASELINE}")
    pools = sweep(routes, sizes, 3 * options.seconds)
    most = max(row["rate"] for row in pools.values())
    least = min(size for size, row in pools.items() if row["rate"] >= ENOUGH * most)
    print(
        f"\nPOOL_SIZE={least} is enough: more bring less than 5 % more requests. A server further"
        f" away needs more.\nIt allows {allowed} connections: {allowed // least} workers of {least};"
        f" with more workers divide {allowed} by their number."
    )
    outcome = {
        "server": database.describe(url).partition(" (")[0],
        "routes": rows,
        "pool_sizes": pools,
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
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--save", action="store_true", help="keep the routes' shares as a baseline")
    mode.add_argument("--check", action="store_true", help="fail if one fell by more than 20 %%")
    parser.add_argument("--seconds", type=float, default=0.3, help="each measurement takes")
    parser.add_argument("--rounds", type=int, default=9, help="of all routes in turn")
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
    try:
        with migrated_database() as url:
            run(url, options)
    except (database.NoServer, RuntimeError) as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
