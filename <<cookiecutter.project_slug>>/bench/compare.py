"""The measurements: ways to write a service beside each other, and sizes of this one's pool."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import URL

from app.core.db import MAX_CONNECTIONS
from bench.load import WARM_UP, Figures, measure, median
from bench.servers import serve
from dev import database

REQUESTS = {
    "read": "GET /users/{id}",
    "list": "GET /users?limit=50",
    "create": "POST /users",
    "change": "PATCH /users/{id}",
}

# A pool is large enough when larger ones bring less than this share more.
ENOUGH = 0.95

# The numbers of workers to advise a POOL_SIZE for.
WORKERS = (1, 2, 4, 8, 16, 32)

Report = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A way to write the service."""

    key: str
    label: str
    application: str
    requests: tuple[str, ...] = ("read",)


VARIANTS = (
    Variant("threads", "sync routes, sync SQLAlchemy", "bench.variants.sync_sqlalchemy:in_threads"),
    Variant(
        "blocking", "async routes, sync SQLAlchemy", "bench.variants.sync_sqlalchemy:in_async_def"
    ),
    Variant("orm", "async routes, async ORM", "bench.variants.async_sqlalchemy:app"),
    Variant("service", "this service", "app.main:app", tuple(REQUESTS)),
<% if cookiecutter.database == "postgresql" %>
    Variant("driver", "FastAPI + asyncpg by hand", "bench.variants.driver:app", tuple(REQUESTS)),
<% else %>
    Variant("driver", "FastAPI + asyncmy by hand", "bench.variants.driver:app", tuple(REQUESTS)),
<% endif %>
)
CEILING = "driver"


@dataclass(frozen=True)
class Result:
    """A variant's figures for one kind of request; `ratio` and `p99_ratio` are to the ceiling's."""

    variant: str
    request: str
    figures: Figures
    ratio: float
    p99_ratio: float


@dataclass(frozen=True)
class Size:
    """The figures of this service with one size of its pool."""

    pool_size: int
    figures: Figures


def count_comparisons(rounds: int) -> int:
    """Return how many measurements `compare` takes."""
    return rounds * sum(len(variant.requests) for variant in VARIANTS)


def compare(
    url: URL, *, pool_size: int, rounds: int, seconds: float, report: Report
) -> list[Result]:
    """Measure all variants in short turns, so that a noisy moment of the machine hits them all."""
    taken: dict[tuple[str, str], list[Figures]] = {
        (variant.key, request): [] for variant in VARIANTS for request in variant.requests
    }
    for number in range(rounds):
        for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
            with serve(variant.application, url, pool_size) as address:
                measure(address, "read", WARM_UP)
                for request in variant.requests:
                    figures = measure(address, request, seconds)
                    taken[variant.key, request].append(figures)
                    report(f"{REQUESTS[request]:<20} {variant.label:<29} {figures.rate:7,.0f}/s")
    return [
        result(variant, request, figures, taken[CEILING, request])
        for (variant, request), figures in taken.items()
    ]


def result(
    variant: str, request: str, figures: Sequence[Figures], ceiling: Sequence[Figures]
) -> Result:
    """Hold the rounds of a variant against those of the ceiling."""
    mine, best = median(figures), median(ceiling)
    return Result(variant, request, mine, share(mine.rate, best.rate), share(mine.p99, best.p99))


def share(part: float, whole: float) -> float:
    """Return a quotient, 0 when nothing was measured."""
    return part / whole if whole else 0.0


def sweep(
    url: URL, *, sizes: Sequence[int], rounds: int, seconds: float, report: Report
) -> list[Size]:
    """Measure this service with pools of several sizes, upwards and downwards in turn.

    The best round of each size counts: whatever else the machine does only slows it down.
    """
    taken: dict[int, list[Figures]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sizes if number % 2 == 0 else reversed(sizes):
            with serve("app.main:app", url, size) as address:
                measure(address, "read", WARM_UP)
                figures = measure(address, "read", seconds)
            taken[size].append(figures)
            report(f"{REQUESTS['read']:<20} {f'POOL_SIZE={size}':<29} {figures.rate:7,.0f}/s")
    return [
        Size(size, max(figures, key=lambda figures: figures.rate))
        for size, figures in taken.items()
    ]


def enough(sizes: Sequence[Size]) -> int:
    """Return the smallest pool beyond which more connections stop helping."""
    most = max(size.figures.rate for size in sizes)
    return min(size.pool_size for size in sizes if size.figures.rate >= ENOUGH * most)


def allowed_connections(url: URL) -> int:
    """Return how many connections the server allows to a service."""
    return int(asyncio.run(database.execute(url, MAX_CONNECTIONS.text)))


def advise(pool_size: int, allowed: int) -> dict[int, int]:
    """Return the pool size for each number of workers, as far as they fit below the limit."""
    return {
        workers: min(pool_size, allowed // workers) for workers in WORKERS if workers <= allowed
    }
