"""What loads a service, and what it tells of that: wrk, and its own metrics."""

import json
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import httpx2

from tests.process import Process

# A method, a path and a body.
Request = tuple[str, str, str]

# `rate` in a second, `p50` and `p99` in milliseconds, `errors`, and shares of the requests' time.
Figures = dict[str, float]


def load(
    url: str, requests: Iterable[Request], clients: int, seconds: int, **headers: str
) -> Figures:
    """Send requests: a client the next one when the last is answered. Raises RuntimeError."""
    words = ["wrk", "--threads=1", f"--connections={clients}", f"--duration={seconds}s"]
    words += ["--timeout=10s", f"--script={Path(__file__).with_name('load.lua')}"]
    words += [*(f"--header={name}: {value}" for name, value in headers.items()), url]
    lines = "".join("\t".join(request) + "\n" for request in requests)
    wrk = subprocess.run(words, input=lines, stdout=subprocess.PIPE, text=True)
    if wrk.returncode:
        raise RuntimeError("wrk has failed.")
    return dict(json.loads(wrk.stdout.splitlines()[-1]))


def spent(service: Process) -> list[float]:
    """Return how many seconds its requests took, waited for connections, and for statements."""
    found = re.search(r"Metrics: http://[\d.]+:(\d+)", service.log.read_text())
    if found is None:
        raise RuntimeError("No metrics are served: see app/core/prometheus.py")
    # A request is counted after its answer.
    time.sleep(0.1)
    said = httpx2.get(f"http://127.0.0.1:{found[1]}/metrics", verify=False).text
    names = "server_request_duration", "connection_wait_time", "client_operation_duration"
    sums = (re.findall(rf"{name}_seconds_sum{{.*}} (.+)", said) for name in names)
    return [sum(map(float, values)) for values in sums]
