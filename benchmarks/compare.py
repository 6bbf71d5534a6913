"""The measurements: ways to write a service beside each other, and sizes of this one's pool.

This runs in a generated service, by its own Python: see `run.py`.
"""

import asyncio
import json
import os
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from operator import itemgetter
from uuid import uuid4

from app.models import User
from bench.load import Figures, load
from dev import database
from sqlalchemy import URL, insert
from sqlalchemy.ext.asyncio import create_async_engine
from tests.process import SETTINGS, serve

# Users in the database, and clients that ask again as soon as they are answered.
USERS = 10_000
CLIENTS = 64

# Seconds in which a new process opens its connections and warms up.
WARM_UP = 1

# More than any of them answers, so that nobody is created twice.
A_SECOND = 10_000

REQUESTS = {
    "read": "GET /users/{id}",
    "list": "GET /users?limit=50",
    "create": "POST /users",
    "change": "PATCH /users/{id}",
}

Report = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A way to write the service."""

    key: str
    label: str
    application: str
    requests: tuple[str, ...] = ("read",)


# Which one the service has.
DRIVER = "asyncpg" if find_spec("asyncpg") else "asyncmy"

VARIANTS = (
    Variant("threads", "sync routes, sync SQLAlchemy", "ways.sync_sqlalchemy:in_threads"),
    Variant("blocking", "async routes, sync SQLAlchemy", "ways.sync_sqlalchemy:in_async_def"),
    Variant("orm", "async routes, async ORM", "ways.async_sqlalchemy:app"),
    Variant("service", "this service", "app.main:app", tuple(REQUESTS)),
    Variant("driver", f"FastAPI + {DRIVER} by hand", f"ways.{DRIVER}_by_hand:app", tuple(REQUESTS)),
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


@contextmanager
def filled_database() -> Iterator[URL]:
    """Give a database with `USERS` users, whose ids begin with 1. Raises NoServer."""
    os.environ.update(SETTINGS)
    name = f"bench_{uuid4().hex}"
    with database.running() as server, database.migrated(server, name) as url:
        asyncio.run(fill(url))
        yield url


async def fill(url: URL) -> None:
    """Make the users."""
    engine = create_async_engine(url)
    users = [
        {"email": f"user{n}@example.com", "full_name": f"User {n}"} for n in range(1, USERS + 1)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(User), users)
    await engine.dispose()


def requests(request: str, count: int) -> Iterator[tuple[str, str, str]]:
    """Yield requests of a kind, each for a user at random."""
    run = uuid4().hex
    for n in range(count):
        user = random.randint(1, USERS)
        match request:
            case "read":
                yield "GET", f"/users/{user}", ""
            case "list":
                yield "GET", f"/users?limit=50&after={max(1, user - 50)}", ""
            case "create":
                user_data = {"email": f"{run}-{n}@example.com", "full_name": "Somebody"}
                yield "POST", "/users", json.dumps(user_data)
            case "change":
                yield "PATCH", f"/users/{user}", json.dumps({"full_name": f"Somebody {n % 1000}"})


def measure(address: str, request: str, seconds: int) -> Figures:
    """Ask a service for some seconds."""
    wanted = requests(request, A_SECOND * seconds)
    return load(address, wanted, CLIENTS, seconds, **{"content-type": "application/json"})


def count_comparisons(rounds: int) -> int:
    """Return how many measurements `compare` takes."""
    return rounds * sum(len(variant.requests) for variant in VARIANTS)


def compare(*, pool_size: int, rounds: int, seconds: int, report: Report) -> list[Result]:
    """Measure all variants in short turns, so that a noisy moment of the machine hits them all."""
    taken: dict[tuple[str, str], list[Figures]] = {
        (variant.key, request): [] for variant in VARIANTS for request in variant.requests
    }
    for number in range(rounds):
        for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
            with serve(variant.application, POOL_SIZE=str(pool_size)) as running:
                measure(running.url, "read", WARM_UP)
                for request in variant.requests:
                    figures = measure(running.url, request, seconds)
                    taken[variant.key, request].append(figures)
                    report(f"{REQUESTS[request]:<20} {variant.label:<29} {figures['rate']:7,.0f}/s")
    return [
        result(variant, request, figures, taken[CEILING, request])
        for (variant, request), figures in taken.items()
    ]


def result(
    variant: str, request: str, figures: Sequence[Figures], ceiling: Sequence[Figures]
) -> Result:
    """Hold the rounds of a variant against those of the ceiling."""
    mine, best = median(figures), median(ceiling)
    return Result(
        variant, request, mine, share(mine["rate"], best["rate"]), share(mine["p99"], best["p99"])
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """Return the middle of each figure, and all errors."""
    middle = {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}
    return middle | {"errors": sum(figures["errors"] for figures in rounds)}


def share(part: float, whole: float) -> float:
    """Return a quotient, 0 when nothing was measured."""
    return part / whole if whole else 0.0


def sweep(*, sizes: Sequence[int], rounds: int, seconds: int, report: Report) -> list[Size]:
    """Measure this service with pools of several sizes, upwards and downwards in turn.

    The best round of each size counts: whatever else the machine does only slows it down.
    """
    taken: dict[int, list[Figures]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sizes if number % 2 == 0 else reversed(sizes):
            with serve("app.main:app", POOL_SIZE=str(size)) as running:
                measure(running.url, "read", WARM_UP)
                figures = measure(running.url, "read", seconds)
            taken[size].append(figures)
            report(f"{REQUESTS['read']:<20} {f'POOL_SIZE={size}':<29} {figures['rate']:7,.0f}/s")
    return [Size(size, max(figures, key=itemgetter("rate"))) for size, figures in taken.items()]
