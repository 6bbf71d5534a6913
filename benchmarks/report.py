"""What came out: as tables for the terminal, and as JSON."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.load import Figures
from compare import CEILING, CLIENTS, DRIVER, REQUESTS, USERS, VARIANTS, Result, Size

PACKAGES = [
    "fastapi",
    "pydantic",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "uvloop",
    *(("asyncpg", "psycopg") if DRIVER == "asyncpg" else ("asyncmy", "pymysql")),
]
LABELS = {variant.key: variant.label for variant in VARIANTS}


@dataclass(frozen=True)
class Outcome:
    """All that was measured, and where."""

    server: str
    pool_size: int
    rounds: int
    seconds: float
    results: Sequence[Result]
    sizes: Sequence[Size]
    enough: int
    allowed: int
    advice: Mapping[int, int]


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        words = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    return platform.machine()


def machine() -> dict[str, Any]:
    """Describe the machine, without a name that would give away whose it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def wrk_version() -> str:
    """Return the version of wrk."""
    # It says so with an exit code of 1.
    return subprocess.run(["wrk", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[1]


def versions(server: str) -> dict[str, str]:
    """Return the versions of all that takes part."""
    return {
        "server": server,
        "python": platform.python_version(),
        "wrk": wrk_version(),
        **{package: version(package) for package in PACKAGES},
    }


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return all figures, with what they depend on. Times are in milliseconds."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(outcome.server),
        "settings": {
            "workers": 1,
            "clients": CLIENTS,
            "users": USERS,
            "pool_size": outcome.pool_size,
            "rounds": outcome.rounds,
            "seconds": outcome.seconds,
        },
        "ceiling": CEILING,
        "comparison": [
            {
                "variant": result.variant,
                "label": LABELS[result.variant],
                "request": REQUESTS[result.request],
                **result.figures,
                "ratio": result.ratio,
                "p99_ratio": result.p99_ratio,
            }
            for result in outcome.results
        ],
        "pool_sizes": [{"pool_size": size.pool_size, **size.figures} for size in outcome.sizes],
        "enough": outcome.enough,
        "max_connections": outcome.allowed,
        "pool_size_by_workers": outcome.advice,
    }


HEAD = f"{'requests/s':>10}  {'p50 ms':>7}  {'p99 ms':>7}  {'errors':>6}"


def row(figures: Figures) -> str:
    """Return figures as columns below `HEAD`."""
    rate, p50, p99, errors = (figures[key] for key in ("rate", "p50", "p99", "errors"))
    return f"{rate:10,.0f}  {p50:7.1f}  {p99:7.1f}  {errors:6.0f}"


def comparison(results: Sequence[Result]) -> Iterator[str]:
    """Yield a table for each kind of request, the ceiling last."""
    for request, title in REQUESTS.items():
        yield f"{title:<30} {HEAD}  {'ratio':>6}  {'p99 ratio':>9}"
        for result in results:
            if result.request == request:
                ratios = f"{result.ratio:6.2f}  {result.p99_ratio:9.2f}"
                yield f"  {LABELS[result.variant]:<28} {row(result.figures)}  {ratios}"
        yield ""


def pool_sizes(outcome: Outcome) -> Iterator[str]:
    """Yield a table of pool sizes, and which one to set."""
    yield f"{'this service, by POOL_SIZE':<30} {HEAD}"
    for size in outcome.sizes:
        mark = "  <- enough" if size.pool_size == outcome.enough else ""
        yield f"  {size.pool_size:<28} {row(size.figures)}{mark}"
    yield ""
    yield (
        f"More than {outcome.enough} connections a worker stop helping: below 5 % more requests."
        f" The server allows {outcome.allowed}."
    )
    yield (
        "That holds for reads by primary key from a server on this machine: slower statements and a"
        " server further away need more."
    )
    yield ""
    yield "workers    " + "".join(f"{workers:6}" for workers in outcome.advice)
    yield "POOL_SIZE  " + "".join(f"{size:6}" for size in outcome.advice.values())


def as_text(outcome: Outcome) -> str:
    """Return the tables for the terminal."""
    about = (
        f"{outcome.server}, one worker, {CLIENTS} clients, POOL_SIZE={outcome.pool_size};"
        f" the middle of {outcome.rounds} rounds"
    )
    lines = ["", about, "", *comparison(outcome.results), *pool_sizes(outcome)]
    return "\n".join(lines)
