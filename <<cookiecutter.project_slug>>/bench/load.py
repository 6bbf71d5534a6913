"""Load, by wrk, which is not itself the bottleneck.

From one core it asked 50,000 times a second, and Locust with its fastest client 11,000.
"""

import json
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
HOW_TO_GET_WRK = (
    "The load comes from wrk, which is not on this machine. Install it:\n"
    "  Debian, Ubuntu: apt-get install wrk    Fedora: dnf install wrk    macOS: brew install wrk"
)


@dataclass(frozen=True)
class Figures:
    """Answers a second; milliseconds that half and 99 % of them took at most; errors."""

    rate: float
    p50: float
    p99: float
    errors: int


def load(
    url: str,
    requests: Iterable[tuple[str, str, str]],
    clients: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> Figures:
    """Send requests for some seconds: a client sends the next one when the last is answered.

    A request is a method, a path and a body. Raises RuntimeError when wrk fails.
    """
    words = ["wrk", "--threads=1", f"--connections={clients}", "--duration=1h", "--timeout=10s"]
    words += [f"--script={SCRIPT}", "--header=content-type: application/json"]
    words += [f"--header={name}: {value}" for name, value in (headers or {}).items()]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.writelines("\t".join(request) + "\n" for request in requests)
        file.flush()
        with subprocess.Popen(
            [*words, url, "--", file.name], stdout=subprocess.PIPE, text=True
        ) as wrk:
            try:
                assert wrk.stdout is not None
                # The script has read its requests.
                wrk.stdout.readline()
                # wrk itself counts whole seconds; told to stop, it still says what it has seen. In
                # its first moment it hears nothing.
                while wrk.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        wrk.wait(seconds)
                    wrk.send_signal(signal.SIGINT)
                said = wrk.stdout.read()
            except BaseException:
                wrk.kill()
                raise
    _, found, figures = said.partition("FIGURES ")
    if not found:
        raise RuntimeError(f"wrk failed:\n{said}")
    return Figures(**json.loads(figures))


def median(rounds: Sequence[Figures]) -> Figures:
    """Return the middle of each figure, and all errors."""
    return Figures(
        rate=statistics.median(figures.rate for figures in rounds),
        p50=statistics.median(figures.p50 for figures in rounds),
        p99=statistics.median(figures.p99 for figures in rounds),
        errors=sum(figures.errors for figures in rounds),
    )
