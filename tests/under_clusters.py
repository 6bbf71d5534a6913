"""Each database's service on what it meets when one machine is not enough: `make test-clusters`.

Poolers, replicas, clusters: real programs on the loopback. Not one of the tests of `make test`.
"""

from pathlib import Path

import pytest
from conftest import DATABASES, TEMPLATE, environment, generate, python, run

CLUSTERS = TEMPLATE / "tests" / "clusters"


@pytest.mark.parametrize("database", DATABASES)
def test_clusters(database: str, open_folder: Path) -> None:
    """Run `clusters/` by the service's own Python, which has its driver and its modules."""
    generate(open_folder, f"database={database}", "run_tests=no")
    project = open_folder / "my-service"
    run("uv", "sync", "--quiet", cwd=project)
    words = ["--config-file", "pyproject.toml", "--cache-dir=/dev/null"]
    python(project, "-m", "mypy", *words, CLUSTERS)
    alone: list[str | Path] = ["-c", "pyproject.toml", "--rootdir", ".", "--confcutdir", CLUSTERS]
    said = python(
        project,
        *"-m pytest -n 0 -s -p no:cacheprovider --timeout=300 --durations=5".split(),
        *alone,
        CLUSTERS,
        env=environment(),
    )
    print(said)
    assert "skipped" not in said
