"""A service's phrase book is held to what it says: where it lies, the service's tests fail."""

import re
from pathlib import Path

import pytest
from conftest import DATABASES, Service, copy_service, generate, python, run

# What is put in place of what, and the test that notices.
LIES = [
    # Another row, another value, another change.
    ("select(Book).order_by(Book.title)", "select(Book).order_by(Book.id)", "phrase[First]"),
    ("# -> 322", "# -> 323", "phrase[One value]"),
    ("author.born = 1922\n```\n\n###", "author.born = 1923\n```\n\n###", "phrase[Change]"),
    # Both find nothing, or nothing is there to be compared.
    ("Author.born < 1925", "Author.born < 25", "phrase[Join]"),
    ("author = await session.get(", "found = await session.get(", "phrase[Get]"),
    # What the new style does not forgive.
    ("await session.delete(", "session.delete(", "phrase[Delete]"),
    ('"Lem").options(selectinload(Author.books))', '"Lem")', "phrase[Lazy loading]"),
    (").unique()", ")", "phrase[Load many: joinedload, and unique]"),
    # Read at once.
    (
        ".execution_options(yield_per=2)\nasync for book in await session.stream_scalars(",
        "\nfor book in await session.scalars(",
        "streams_come_from_a_cursor_on_the_server[Objects-True]",
    ),
    # A block that is no code, a topic without a phrase, a link to nowhere.
    ("```python\n# old\nfound", "```\n# old\nfound", "every_block_is_run_and_every_promise_kept"),
    ("await asyncio.to_thread(hashlib.scrypt, ", "hashlib.scrypt(", "every_topic_has_a_phrase"),
    ("## Raw SQL", "## SQL", "every_link_within_the_page_leads_somewhere"),
    # A helper that finds what is not there.
    ("if row is None:", "if key is None:", "the_helpers_say_no"),
]

PYTEST = ["-m", "pytest", "-n", "0", "tests/test_phrasebook.py"]


def spoil(page: Path, *lies: tuple[str, str]) -> None:
    """Put lies into a page."""
    text = page.read_text()
    for old, new in lies:
        assert old in text
        text = text.replace(old, new)
    page.write_text(text)


@pytest.fixture(scope="module", params=DATABASES)
def moved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service for who moves from synchronous code."""
    output = tmp_path_factory.mktemp("moved")
    said = generate(output, f"database={request.param}", "sync_bridge=yes", "run_tests=no")
    run("uv", "sync", "--quiet", cwd=output / "my-service")
    return Service(output / "my-service", said)


@pytest.fixture
def copy(moved: Service, tmp_path: Path) -> Path:
    """Return a copy of it, to be spoilt."""
    return copy_service(moved, tmp_path / "copy")


def test_lies_are_noticed(copy: Path) -> None:
    spoil(copy / "PHRASEBOOK.md", *((old, new) for old, new, _ in LIES))

    said = python(copy, *PYTEST, code=1)
    failed = re.findall(r"^FAILED tests/test_phrasebook\.py::test_(.+?)(?: - .*)?$", said, re.M)
    assert sorted(failed) == sorted(test for *_, test in LIES)


def test_a_block_without_a_mark_is_noticed(copy: Path) -> None:
    spoil(copy / "PHRASEBOOK.md", ("# new\n", ""))

    said = python(copy, *PYTEST, code=2)
    assert "KeyError" in said


def test_the_page_is_sound_code(copy: Path) -> None:
    code = "from tests.test_phrasebook import SOURCE; print(SOURCE)"
    (copy / "page.py").write_text(python(copy, "-c", code))

    python(copy, "-m", "mypy", "page.py")
    # I001: there are more lines between the blocks than ruff would leave.
    python(copy, "-m", "ruff", "check", "--ignore=I001", "page.py")
