"""Each database's service writes migrations for any model that go up, down and up again."""

from pathlib import Path

from conftest import TEMPLATE, Service, python

MATRIX = TEMPLATE / "tests" / "migrations"


def test_matrix(service: Service) -> None:
    """Run `migrations/` by the service's own Python, which has its driver and its modules."""
    words: list[str | Path] = ["-c", "pyproject.toml", "--rootdir", ".", "--confcutdir", MATRIX]
    said = python(service.project, *"-m pytest -p no:cacheprovider".split(), *words, MATRIX)
    assert " passed in " in said
    assert "skipped" not in said


def test_matrix_is_typed(service: Service, tmp_path: Path) -> None:
    words = ["--config-file", "pyproject.toml", f"--cache-dir={tmp_path}"]
    python(service.project, "-m", "mypy", *words, MATRIX)
