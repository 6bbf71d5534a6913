"""Each database's service under faults and odd requests: real servers that die, freeze, refuse."""

import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE, Service, environment, python

FAULTS = TEMPLATE / "tests" / "faults"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_faults(service: Service) -> None:
    """Run `faults/` by the service's own Python, which has its driver and its modules."""
    alone: list[str | Path] = ["-c", "pyproject.toml", "--rootdir", ".", "--confcutdir", FAULTS]
    said = python(
        service.project,
        *"-m pytest -n 0 -s -p no:cacheprovider --timeout=300".split(),
        *alone,
        FAULTS,
        env=environment(SCHEMATHESIS=str(SCHEMATHESIS)),
    )
    print(said)
    assert said.count("FIGURES") == 11
    assert "skipped" not in said


@pytest.mark.parametrize("service", ["mysql"], indirect=True)
def test_tls(service: Service) -> None:
    """PostgreSQL's server of the tests is made without TLS."""
    said = python(
        service.project,
        *"-m pytest -n 0 -p no:cacheprovider -c pyproject.toml --rootdir .".split(),
        FAULTS / "tls.py",
    )
    assert " 2 passed in " in said


def test_faults_are_typed(service: Service, tmp_path: Path) -> None:
    words = ["--config-file", "pyproject.toml", f"--cache-dir={tmp_path}"]
    python(service.project, "-m", "mypy", *words, FAULTS)
