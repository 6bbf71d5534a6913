"""`make benchmark`: hold generated services against the bare driver; write the README's tables.

For each database a service is rendered, and `measure.py` holds it against other ways to write it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEMPLATE = HERE.parent
DATABASES = ("postgresql", "mysql")
BEGIN, END = "<!-- make benchmark -->\n", "<!-- end -->\n"

# Ways to read a user, as `compare.py` calls them.
READS = {
    "service": "`GET /users/{id}`",
    "orm": "`GET /users/{id}`, async ORM session as articles have it",
    "blocking": "`GET /users/{id}`, sync SQLAlchemy inside `async def`",
    "threads": "`GET /users/{id}`, sync SQLAlchemy in threads",
}
OTHERS = {"GET /users?limit=50": "`GET /users?limit=50`", "POST /users": "`POST /users`"}
DRIVERS = {"postgresql": "asyncpg", "mysql": "asyncmy"}
SYNC_DRIVERS = {"postgresql": "psycopg[binary]>=3.3", "mysql": "pymysql>=1.1"}


@dataclass(frozen=True)
class Measured:
    """What `measure.py` wrote, and the fairness of the pool."""

    database: str
    bench: Mapping[str, Any]
    fairness: Mapping[str, float]

    @property
    def server(self) -> str:
        """Return the server's name and version."""
        return str(self.bench["versions"]["server"]).partition(" (")[0]

    def ratios(self, variant: str, request: str) -> tuple[float, float]:
        """Return requests a second and the 99th percentile, as multiples of the driver's."""
        [row] = [
            row
            for row in self.bench["comparison"]
            if row["variant"] == variant and row["request"] == request
        ]
        return row["ratio"], row["p99_ratio"]


@contextmanager
def rendered(database: str) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """Render a service in a folder of its own; give it, its Python, and what runs these scripts."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        answers = [f"database={database}", "run_tests=no"]
        cookiecutter = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
        run([*cookiecutter, "--default-config", "--output-dir", folder, *answers], Path(folder))
        project = Path(folder, "my-service")
        run(["uv", "sync", "--quiet"], project)
        run(["uv", "pip", "install", "--quiet", "matplotlib>=3.10"], project)
        python = str(project / ".venv" / "bin" / "python")
        yield (
            project,
            python,
            os.environ | {"PYTHONPATH": os.pathsep.join([str(project), str(HERE)])},
        )


def measure(database: str, options: argparse.Namespace) -> Measured:
    """Render a service, measure it, and keep its figures and its chart."""
    with rendered(database) as (project, python, env):
        folder = str(project.parent)
        run(["uv", "pip", "install", "--quiet", SYNC_DRIVERS[database]], project)
        words = [f"--rounds={options.rounds}", f"--seconds={options.seconds}"]
        words += ["--pool-sizes", *map(str, options.pool_sizes)]
        run([python, str(HERE / "measure.py"), *words, "--results", folder], project, env)
        print(f"Fairness, {options.fairness_seconds:g} s …", flush=True)
        said = subprocess.run(
            [python, HERE / "fairness.py", str(options.fairness_seconds)],
            cwd=project,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        print(said, flush=True)
        bench = json.loads(Path(folder, "bench.json").read_text())
        measured = Measured(database, bench, json.loads(said))
        options.results.mkdir(parents=True, exist_ok=True)
        figures = bench | {"fairness": measured.fairness}
        kept = options.results / f"{database}.json"
        kept.write_text(json.dumps(figures, indent=2) + "\n")
        shutil.copyfile(Path(folder, "bench.svg"), kept.with_suffix(".svg"))
    return measured


def run(command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a command, which says what it does. Raises CalledProcessError."""
    subprocess.run(command, cwd=folder, env=env, check=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, numbers to the right."""
    yield f"| {' | '.join(head)} |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def speed(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield the table of ratios to the bare driver."""
    head = ["", *(f"{one.server}: {what}" for one in measured for what in ("rate", "p99"))]
    requests = [(text, variant, "GET /users/{id}") for variant, text in READS.items()]
    requests[1:1] = [(text, "service", request) for request, text in OTHERS.items()]
    rows = []
    for text, variant, request in requests:
        pairs = [one.ratios(variant, request) for one in measured]
        rows.append([text, *(f"{ratio:.2f}" for pair in pairs for ratio in pair)])
    yield from table(head, rows)


def fairness(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield the table of what many clients on few connections get."""
    seen = [one.fairness for one in measured]
    first = seen[0]
    head = [
        f"{first['clients']:,.0f} clients, {first['connections']} connections,"
        f" {first['seconds']:g} s",
        *(one.server for one in measured),
    ]
    rows = [
        ["requests a second", *(f"{one['rate']:,.0f}" for one in seen)],
        ["errors", *(f"{one['errors']}" for one in seen)],
        ["longest wait, in mean waits", *(f"{one['longest_by_mean']:.1f}" for one in seen)],
        ["Jain's index of answers by client", *(f"{one['jain']:.4f}" for one in seen)],
    ]
    yield from table(head, rows)


def text(measured: Sequence[Measured]) -> str:
    """Return what stands in the README."""
    first = measured[0].bench
    machine, versions, settings = first["machine"], first["versions"], first["settings"]
    drivers = [
        f"{DRIVERS[one.database]} {one.bench['versions'][DRIVERS[one.database]]}"
        for one in measured
    ]
    lines = [
        *speed(measured),
        "",
        *fairness(measured),
        "",
        f"Measured on {first['date'][:10]}: {machine['processor']}, {machine['cores']} cores,"
        f" {machine['system']}; Python {versions['python']}, FastAPI {versions['fastapi']},"
        f" SQLAlchemy {versions['sqlalchemy']}, uvicorn {versions['uvicorn']},"
        f" {', '.join(drivers)}, wrk {versions['wrk']};"
        f" one worker, {settings['clients']} clients, {settings['pool_size']} connections,"
        f" {settings['users']:,} users, the middle of {settings['rounds']} rounds of"
        f" {settings['seconds']:g} s.",
        "",
    ]
    return "\n".join(lines)


def write(readme: Path, new: str) -> None:
    """Put a text between the marks of a file. Raises ValueError when it has none."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme.name} lacks the lines {BEGIN.strip()} and {END.strip()}")
    readme.write_text(f"{before}{begin}\n{new}\n{end}{after}", encoding="utf-8")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of all variants in turn")
    parser.add_argument("--seconds", type=int, default=2, help="each measurement takes")
    parser.add_argument("--pool-sizes", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--fairness-seconds", type=float, default=10.0, help="fairness takes")
    parser.add_argument(
        "--databases", nargs="+", choices=DATABASES, default=DATABASES, help="which"
    )
    parser.add_argument("--readme", type=Path, default=TEMPLATE / "README.md", help="to write into")
    parser.add_argument(
        "--results", type=Path, default=TEMPLATE / "benchmarks", help="for figures and charts"
    )
    return parser.parse_args()


def main() -> None:
    """Measure all, then write."""
    options = read_arguments()
    measured = []
    for database in options.databases:
        print(f"--- {database}", flush=True)
        measured.append(measure(database, options))
    write(options.readme, text(measured))


if __name__ == "__main__":
    main()
