"""The answers: every two that go together, and those that render other files proven by the hook.

The suite of each line of the table runs once: here, without the example by the last line of its
kind (`test_example_removed.py`), or on a server of one's own (`test_development.py`).
"""

import re
from itertools import combinations, product
from pathlib import Path

import pytest
from conftest import PROMPTS, ROWS, VARIANTS, Variant, generate, run

IMPOSSIBLE = [
    {("database", "mysql"), ("vector_search", "yes")},
    {("sync_bridge", "yes"), ("pool_size", "1")},
]


def test_every_pair_of_answers_is_tried() -> None:
    allowed = {prompt: {row[prompt] for row in ROWS} for prompt in PROMPTS}
    assert allowed["pool_size"] == {"1", "2", "1000"}
    assert allowed["max_overflow"] == {"0", "1", "1000"}
    for one, other in combinations(PROMPTS, 2):
        tried = {(row[one], row[other]) for row in ROWS}
        for answer, its_answer in product(allowed[one], allowed[other]):
            pair = {(one, answer), (other, its_answer)}
            assert (answer, its_answer) in tried or pair in IMPOSSIBLE, pair
    # The first and the last line of each are run, and no line makes another variant.
    assert {len(variant.rows) for variant in VARIANTS} == {1, 2}
    assert sum(len(variant.rows) for variant in VARIANTS) == len(ROWS)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "yes" in v], ids="-".join)
def test_answers_are_proven(variant: Variant, tmp_path: Path) -> None:
    said = generate(tmp_path, *(f"{prompt}={answer}" for prompt, answer in variant.rows[0].items()))
    assert re.search(r"^  \d+ tests passed in \d+\.\d s$", said, re.MULTILINE)
    assert "Success: no issues" in run("make", "lint", cwd=tmp_path / "my-service").stdout
