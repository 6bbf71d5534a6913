"""Load, by wrk: cheap enough not to be what is measured."""

import json
import random
import shutil
import signal
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
HOW_TO_GET = (
    "The load comes from wrk, which is not on this machine. Install it:\n"
    "  Debian, Ubuntu: apt-get install wrk    Fedora: dnf install wrk    macOS: brew install wrk"
)

# Users in the database, and clients that ask again as soon as they are answered.
USERS = 10_000
CLIENTS = 64

# Seconds in which a new process opens its connections and warms up.
WARM_UP = 0.3


class NoLoadTool(Exception):
    """The machine has no wrk, with the way to get it."""


@dataclass(frozen=True)
class Figures:
    """Answers a second; milliseconds that half and 99 % of them took at most; errors."""

    rate: float
    p50: float
    p99: float
    errors: int


def version() -> str:
    """Return the version of wrk. Raises NoLoadTool."""
    if shutil.which("wrk") is None:
        raise NoLoadTool(HOW_TO_GET)
    # It says so with an exit code of 1.
    said = subprocess.run(["wrk", "--version"], stdout=subprocess.PIPE, text=True).stdout
    return said.split()[1]


def measure(url: str, request: str, seconds: float) -> Figures:
    """Ask a service for some seconds, by a `request` of `load.lua`.

    Raises RuntimeError when wrk gives no figures.
    """
    seed = str(random.randrange(10**9))
    words = ["wrk", "--threads=1", f"--connections={CLIENTS}", "--duration=1h", "--timeout=10s"]
    words += [f"--script={SCRIPT}", url, "--", request, str(USERS), seed]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as wrk:
        try:
            # wrk itself counts whole seconds; told to stop, it still says what it has seen.
            with suppress(subprocess.TimeoutExpired):
                wrk.wait(seconds)
            wrk.send_signal(signal.SIGINT)
            said, _ = wrk.communicate(timeout=30)
        except BaseException:
            wrk.kill()
            raise
    for line in said.splitlines():
        if line.startswith("FIGURES "):
            return read_figures(line.removeprefix("FIGURES "))
    raise RuntimeError(f"wrk failed:\n{said}")


def read_figures(line: str) -> Figures:
    """Read what `load.lua` wrote, in microseconds."""
    said = json.loads(line)
    return Figures(
        rate=said["answers"] / (said["duration"] / 1e6),
        p50=said["p50"] / 1e3,
        p99=said["p99"] / 1e3,
        errors=said["errors"],
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """Return the middle of each figure, and all errors."""
    return Figures(
        rate=statistics.median(figures.rate for figures in rounds),
        p50=statistics.median(figures.p50 for figures in rounds),
        p99=statistics.median(figures.p99 for figures in rounds),
        errors=sum(figures.errors for figures in rounds),
    )
