"""The load test of each database's service works from end to end; how fast it is, is not tested."""

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

from conftest import Service, environment, python, run

READ, LIST = "GET /users/{id}", "GET /users?limit=50"
CREATE, CHANGE = "POST /users", "PATCH /users/{id}"
COMPARED = [
    *(("threads", READ), ("blocking", READ), ("orm", READ)),
    *(("service", READ), ("service", LIST), ("service", CREATE), ("service", CHANGE)),
    *(("driver", READ), ("driver", LIST), ("driver", CREATE), ("driver", CHANGE)),
]


def test_bench(service: Service, tmp_path: Path) -> None:
    quick = f"--seconds 1 --rounds 1 --pool-sizes 1 5 --results {tmp_path}"
    said = run("make", "bench", f"ARGS={quick}", cwd=service.project).stdout
    outcome = json.loads((tmp_path / "bench.json").read_text())

    rows = {(row["variant"], row["request"]): row for row in outcome["comparison"]}
    assert sorted(rows) == sorted(COMPARED)
    for (_, request), row in rows.items():
        ceiling = rows["driver", request]
        assert row["rate"] > 0
        assert 0 < row["p50"] <= row["p99"]
        assert row["errors"] == 0
        assert row["ratio"] == row["rate"] / ceiling["rate"]
        assert row["p99_ratio"] == row["p99"] / ceiling["p99"]
        assert re.search(rf"  {re.escape(row['label'])} +{row['rate']:,.0f} ", said)
    assert [size["pool_size"] for size in outcome["pool_sizes"]] == [1, 5]
    assert outcome["enough"] in (1, 5)
    assert outcome["pool_size_by_workers"]["1"] == outcome["enough"]
    for workers, size in outcome["pool_size_by_workers"].items():
        assert 1 <= int(workers) * size <= outcome["max_connections"]

    shown = texts(tmp_path / "bench.svg")
    server = outcome["versions"]["server"].partition(" (")[0]
    assert f"GET /users/{{id}} on {server}: one worker, 64 clients, POOL_SIZE=20" in shown
    for (_, request), row in rows.items():
        if request == READ:
            assert row["label"] in shown
            assert f"{row['rate']:,.0f}  ({row['ratio']:.2f})" in shown
            assert f"{row['p99']:,.0f}" in shown
    for axis in "requests a second", "milliseconds, log scale", "POOL_SIZE: connections":
        assert axis in shown
    for legend in "p50", "p99", f"enough: {outcome['enough']}":
        assert legend in shown


def texts(chart: Path) -> str:
    """Return what is written in a chart: its letters are drawn, and said in comments."""
    assert ElementTree.parse(chart).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    return "\n".join(re.findall("<!-- (.*) -->", chart.read_text()))


def test_bench_without_wrk_says_how_to_get_it(service: Service, tmp_path: Path) -> None:
    folders = os.environ["PATH"].split(os.pathsep)
    kept = [folder for folder in folders if not Path(folder, "wrk").exists()]
    (tools := tmp_path / "bin").mkdir()
    env = environment(PATH=os.pathsep.join([str(tools), *kept]))
    said = python(service.project, "-m", "bench", env=env, code=1)
    assert "apt-get install wrk" in said


LOCUST = """
import asyncio, os, subprocess, sys
from dev import database
from tests.process import serve

async def main() -> int:
    async with serve("app.main:app") as process:
        locust = [*sys.argv[1:], "-f", "bench/locustfile.py", "--host", process.url]
        locust += "--headless --users 8 --spawn-rate 8 --run-time 4s --processes 2".split()
        child = await asyncio.create_subprocess_exec(*locust)
        return await child.wait()

with database.running() as server:
    url = database.create_database(server, "locust")
    os.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], check=True)
    code = asyncio.run(main())
sys.exit(code)
"""


def test_locust_with_two_workers(service: Service) -> None:
    locust = "uv run --isolated --no-project --with locust locust".split()
    said = python(service.project, "-c", LOCUST, *locust)
    totals = [line.split() for line in said.splitlines() if "Aggregated" in line]
    assert totals
    requests, failures = totals[-2][1:3] if len(totals) > 1 else totals[-1][1:3]
    assert int(requests) > 100, said
    assert failures == "0(0.00%)", said
