"""Each database's service under faults and odd requests: real servers that die, freeze, refuse."""

import sys
from pathlib import Path

from conftest import TEMPLATE, Service, environment, python

FAULTS = TEMPLATE / "tests" / "faults"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_faults(service: Service) -> None:
    """Run `faults/` by the service's own Python, which has its driver and its modules."""
    alone: list[str | Path] = ["-c", "pyproject.toml", "--rootdir", ".", "--confcutdir", FAULTS]
    said = python(
        service.project,
        # Two at once, since each waits most of its time.
        *"-m pytest -n 2 -rP -p no:cacheprovider --timeout=300".split(),
        *alone,
        FAULTS,
        env=environment(SCHEMATHESIS=str(SCHEMATHESIS)),
    )
    print(said)
    assert said.count("FIGURES") == 11
    assert "skipped" not in said


def test_faults_are_typed(service: Service, tmp_path: Path) -> None:
    words = ["--config-file", "pyproject.toml", f"--cache-dir={tmp_path}"]
    python(service.project, "-m", "mypy", *words, FAULTS)
