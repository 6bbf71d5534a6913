"""`python measure.py`, in a generated service by its own Python: see `run.py`."""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import chart
import report
from bench.__main__ import ENOUGH
from compare import CLIENTS, USERS, compare, count_comparisons, filled_database, sweep
from dev import database

# The numbers of workers to advise a POOL_SIZE for.
WORKERS = (1, 2, 4, 8, 16, 32)


class Progress:
    """Prints a line for each measurement: how far it is, how long it takes, what came out."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        """Count a measurement, and print it at once."""
        self._done += 1
        seconds = time.monotonic() - self._start
        left = seconds / self._done * (self._steps - self._done)
        print(f"{self._done:3}/{self._steps}  {left:3.0f} s left  {text}", flush=True)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=int, default=1, help="each measurement takes")
    parser.add_argument("--rounds", type=int, default=3, help="of all variants in turn")
    parser.add_argument("--pool-size", type=int, default=20, help="in the comparison")
    parser.add_argument(
        "--pool-sizes", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50], help="to try out"
    )
    parser.add_argument("--results", type=Path, default=Path(), help="where to write")
    return parser.parse_args()


def run(options: argparse.Namespace) -> report.Outcome:
    """Measure everything. Raises NoServer, and RuntimeError when something does not start."""
    # Two rounds show where the curve of the pool's sizes bends.
    sweeps = min(2, options.rounds)
    steps = count_comparisons(options.rounds) + sweeps * len(options.pool_sizes)
    with filled_database() as url:
        server = database.describe(url)
        print(f"{server}: {USERS:,} users, {CLIENTS} clients", flush=True)
        allowed = database.max_connections(url)
        tried = [size for size in options.pool_sizes if size <= allowed]
        if not tried:
            raise RuntimeError(f"--pool-sizes: the server allows {allowed} connections.")
        progress = Progress(steps)
        results = compare(
            pool_size=options.pool_size,
            rounds=options.rounds,
            seconds=options.seconds,
            report=progress,
        )
        sizes = sweep(
            sizes=tried,
            rounds=sweeps,
            seconds=options.seconds,
            report=progress,
        )
    most = max(size.figures["rate"] for size in sizes)
    least = min(size.pool_size for size in sizes if size.figures["rate"] >= ENOUGH * most)
    return report.Outcome(
        server=server,
        pool_size=options.pool_size,
        rounds=options.rounds,
        seconds=options.seconds,
        results=results,
        sizes=sizes,
        enough=least,
        allowed=allowed,
        advice={n: min(least, allowed // n) for n in WORKERS if n <= allowed},
    )


def main() -> None:
    """Measure, and write what came out."""
    options = read_arguments()
    # Drivers warn of things that are no matter here.
    logging.basicConfig(level=logging.ERROR)
    try:
        outcome = run(options)
    except (database.NoServer, RuntimeError) as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    print(report.as_text(outcome))
    options.results.mkdir(parents=True, exist_ok=True)
    figures = options.results / "bench.json"
    figures.write_text(json.dumps(report.as_json(outcome), indent=2) + "\n")
    picture = options.results / "bench.svg"
    chart.draw(outcome, picture)
    print(f"\nWritten: {figures}\n         {picture}")


if __name__ == "__main__":
    main()
