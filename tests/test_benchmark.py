"""The template's own benchmark works from end to end; how fast services are, is not tested."""

import json
import re
import sys
from pathlib import Path

from conftest import TEMPLATE, Service, python, run

BENCHMARKS = TEMPLATE / "benchmarks"


def test_benchmark_writes_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- make benchmark -->\nold\n<!-- end -->\nafter\n")
    quick = "--rounds 1 --seconds 0.3 --pool-sizes 2 --fairness-seconds 1 --databases postgresql"
    words = [*quick.split(), f"--readme={readme}", f"--results={tmp_path}"]
    run(sys.executable, BENCHMARKS / "run.py", *words, cwd=tmp_path)

    text = readme.read_text()
    assert text.startswith("before\n<!-- make benchmark -->\n\n| ")
    assert text.endswith("\n\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert re.search(r"^\| `GET /users/\{id\}` \| \d\.\d\d \| \d+\.\d\d \|$", text, re.MULTILINE)
    assert re.search(r"^\| errors \| 0 \|$", text, re.MULTILINE)
    figures = json.loads((tmp_path / "postgresql.json").read_text())
    assert figures["fairness"]["clients"] == 1000
    assert (tmp_path / "postgresql.svg").stat().st_size > 10_000


def test_fairness_is_typed(service: Service, tmp_path: Path) -> None:
    words = ["--config-file", "pyproject.toml", f"--cache-dir={tmp_path}"]
    python(service.project, "-m", "mypy", *words, BENCHMARKS / "fairness.py")
