"""The answers: every two that go together are tried.

The suite of each line of the table runs once: by the hook (`PROVEN`), without the example by the
last line of its kind (`test_example_removed.py`), or on a server of one's own
(`test_development.py`).
"""

from itertools import combinations, product

from conftest import PROMPTS, PROVEN, ROWS, VARIANTS

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


def test_each_variant_is_proven_by_the_hook() -> None:
    """The two without more are the services that most tests share."""
    assert {*PROVEN.values()} == {variant for variant in VARIANTS if "yes" in variant}
