"""The load test of each database's service works from end to end; how fast it is, is not tested."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree

from conftest import Service, environment, run


def test_bench(service: Service, tmp_path: Path) -> None:
    quick = f"--seconds 0.3 --rounds 1 --pool-sizes 1 5 --results {tmp_path}"
    said = run("make", "bench", f"ARGS={quick}", cwd=service.project).stdout
    assert "this service, by POOL_SIZE" in said
    assert "The server allows" in said
    outcome = json.loads((tmp_path / "bench.json").read_text())
    assert outcome
    chart = ElementTree.parse(tmp_path / "bench.svg").getroot()
    assert chart.tag.endswith("svg")


def test_bench_without_wrk_says_how_to_get_it(service: Service, tmp_path: Path) -> None:
    python = service.project / ".venv" / "bin" / "python"
    folders = os.environ["PATH"].split(os.pathsep)
    kept = [folder for folder in folders if not Path(folder, "wrk").exists()]
    (tools := tmp_path / "bin").mkdir()
    env = environment(PATH=os.pathsep.join([str(tools), *kept]))
    said = run(python, "-m", "bench", cwd=service.project, env=env, code=1).stdout
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
    python = service.project / ".venv" / "bin" / "python"
    locust = "uv run --isolated --no-project --with locust locust".split()
    said = run(python, "-c", LOCUST, *locust, cwd=service.project).stdout
    totals = [line.split() for line in said.splitlines() if "Aggregated" in line]
    assert totals
    requests, failures = totals[-2][1:3] if len(totals) > 1 else totals[-1][1:3]
    assert int(requests) > 100, said
    assert failures == "0(0.00%)", said
