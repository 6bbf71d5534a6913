"""The template's own benchmark works from end to end; how fast services are, is not tested."""

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import DATABASES, TEMPLATE, Service, environment, python, run

BENCHMARKS = TEMPLATE / "benchmarks"

WITHOUT_MATPLOTLIB = """
[[tool.mypy.overrides]]
module = ["matplotlib.*"]
follow_imports = "skip"
ignore_missing_imports = true
"""
READ, LIST = "GET /users/{id}", "GET /users?limit=50"
CREATE, CHANGE = "POST /users", "PATCH /users/{id}"
COMPARED = [
    *(("threads", READ), ("blocking", READ), ("orm", READ)),
    *(("service", READ), ("service", LIST), ("service", CREATE), ("service", CHANGE)),
    *(("driver", READ), ("driver", LIST), ("driver", CREATE), ("driver", CHANGE)),
]


@pytest.mark.parametrize("database", DATABASES)
def test_benchmark_writes_the_readme(database: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- make benchmark -->\nold\n<!-- end -->\nafter\n")
    quick = "--rounds 1 --seconds 2 --pool-sizes 2 --fairness-seconds 1 "
    words = [
        *quick.split(),
        f"--databases={database}",
        f"--readme={readme}",
        f"--results={tmp_path}",
    ]
    run(sys.executable, BENCHMARKS / "run.py", *words, cwd=tmp_path)

    text = readme.read_text()
    assert text.startswith("before\n<!-- make benchmark -->\n\n| ")
    assert text.endswith("\n\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert re.search(r"^\| `GET /users/\{id\}` \| \d\.\d\d \| \d+\.\d\d \|$", text, re.MULTILINE)
    assert re.search(r"^\| errors \| 0 \|$", text, re.MULTILINE)
    figures = json.loads((tmp_path / f"{database}.json").read_text())
    assert figures["fairness"]["clients"] == 1000
    rows = {(row["variant"], row["request"]): row for row in figures["comparison"]}
    assert sorted(rows) == sorted(COMPARED)
    for (_, request), row in rows.items():
        ceiling = rows["driver", request]
        assert row["rate"] > 0
        assert 0 < row["p50"] <= row["p99"]
        assert row["errors"] == 0
        assert row["ratio"] == row["rate"] / ceiling["rate"]
        assert row["p99_ratio"] == row["p99"] / ceiling["p99"]

    # Its letters are drawn, and said in comments.
    shown = "\n".join(re.findall("<!-- (.*) -->", (tmp_path / f"{database}.svg").read_text()))
    server = figures["versions"]["server"].partition(" (")[0]
    assert f"GET /users/{{id}} on {server}: one worker, 64 clients, POOL_SIZE=20" in shown
    for (_, request), row in rows.items():
        if request == READ:
            assert row["label"] in shown
            assert f"{row['rate']:,.0f}  ({row['ratio']:.2f})" in shown
            assert f"{row['p99']:,.0f}" in shown
    for axis in "requests a second", "milliseconds, log scale", "POOL_SIZE: connections":
        assert axis in shown
    for legend in "p50", "p99", f"enough: {figures['enough']}":
        assert legend in shown


def test_what_runs_in_a_service_is_typed(service: Service, tmp_path: Path) -> None:
    driver = "asyncpg" if service.project.parent.name == "postgresql" else "asyncmy"
    names = ["fairness", "measure", "compare", "report", "chart", "ways/async_sqlalchemy"]
    names += [f"ways/{driver}_by_hand", "record", "panels", "shop"]
    paths = [BENCHMARKS / f"{name}.py" for name in names]
    # The service has no matplotlib, which draws the template's own charts.
    config = tmp_path / "pyproject.toml"
    config.write_text((service.project / "pyproject.toml").read_text() + WITHOUT_MATPLOTLIB)
    words = [f"--config-file={config}", f"--cache-dir={tmp_path}", "--explicit-package-bases"]
    env = environment(MYPYPATH=str(BENCHMARKS))
    python(service.project, "-m", "mypy", *words, *paths, env=env)
