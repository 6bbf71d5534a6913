"""The answers: every two that go together, in services generated, proven by the hook, and linted.

Each database's service with the answers that the prompts suggest is `test_service.py`'s.
"""

import re
from itertools import combinations, product
from pathlib import Path

import pytest
from conftest import VARIANTS, Render, Service, Variant, generate, python, run

# By pairs: any two answers that go together stand in one line, as a test below proves. Numbers are
# the ends of what is allowed, and what lies beside them.
TABLE = """
database    vector_search  sync_bridge  pool_size  max_overflow  pool_timeout  pool_recycle
postgresql  no             yes          2          1             0.5           1
postgresql  no             no           1          0             3             -1
postgresql  no             no           1000       1000          0.5           -1
postgresql  yes            no           1          1000          0.5           1
postgresql  yes            yes          1000       1             3             -1
postgresql  yes            no           2          0             3             1
mysql       no             yes          1000       0             0.5           1
mysql       no             no           1          1             3             1
mysql       no             yes          2          1000          3             -1
"""
PROMPTS, *LINES = [line.split() for line in TABLE.strip().splitlines()]
ROWS = [dict(zip(PROMPTS, line, strict=True)) for line in LINES]
IMPOSSIBLE = [
    {("database", "mysql"), ("vector_search", "yes")},
    {("sync_bridge", "yes"), ("pool_size", "1")},
]


def variant(row: dict[str, str]) -> Variant:
    """Return which files the answers render."""
    return Variant(row["database"], row["vector_search"], row["sync_bridge"])


def name(row: dict[str, str]) -> str:
    """Return a readable name of a test."""
    return "-".join(row.values())


def test_every_pair_of_answers_is_tried() -> None:
    allowed = {prompt: {row[prompt] for row in ROWS} for prompt in PROMPTS}
    assert allowed["pool_size"] == {"1", "2", "1000"}
    assert allowed["max_overflow"] == {"0", "1", "1000"}
    for one, other in combinations(PROMPTS, 2):
        tried = {(row[one], row[other]) for row in ROWS}
        for answer, its_answer in product(allowed[one], allowed[other]):
            pair = {(one, answer), (other, its_answer)}
            assert (answer, its_answer) in tried or pair in IMPOSSIBLE, pair
    assert {variant(row) for row in ROWS} == set(VARIANTS)


@pytest.mark.parametrize("row", [row for row in ROWS if "yes" in variant(row)], ids=name)
def test_answers_are_proven(row: dict[str, str], tmp_path: Path) -> None:
    said = generate(tmp_path, *(f"{prompt}={answer}" for prompt, answer in row.items()))
    assert re.search(r"^  \d+ tests passed in \d+\.\d s$", said, re.MULTILINE)
    if row is next(other for other in ROWS if variant(other) == variant(row)):
        assert "Success: no issues" in run("make", "lint", cwd=tmp_path / "my-service").stdout


@pytest.mark.parametrize(
    ("service", "row"),
    [(row["database"], row) for row in ROWS if "yes" not in variant(row)],
    indirect=["service"],
    ids=[name(row) for row in ROWS if "yes" not in variant(row)],
)
def test_numbers_are_proven(
    service: Service, row: dict[str, str], render: Render, tmp_path: Path
) -> None:
    project = render(tmp_path / "out", **row)
    (project / ".venv").symlink_to(service.project / ".venv")
    # Somebody's own settings change nothing either.
    (project / ".env").write_text(
        "POOL_SIZE=3\nSTATEMENT_TIMEOUT=0.001\nECHO_SQL=yes\nLOG_LEVEL=critical\n"
        "CORS_ORIGINS=https://example.com\n"
    )
    assert re.search(r"^\d+ passed in ", python(project, "-m", "pytest", "-q"), re.MULTILINE)
