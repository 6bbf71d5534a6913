"""The phrase book is run, block by block: an old phrase and its new one come to the same."""

import ast
import os
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from fastapi import HTTPException
from sqlalchemy import URL, Connection, Row, event, make_url, select, text
from sqlalchemy.exc import (
    ArgumentError,
    Base20DeprecationWarning,
    InvalidRequestError,
    SQLAlchemyError,
)
from sqlalchemy.orm import ORMExecuteState, Session, joinedload, lazyload

from app.core.db import Database
from dev import database as databases
from tests.process import PROJECT

# The first line of a block says what it is: code of a module, or the body of a function.
MARKS = {
    "# module": "",
    "# old": "def old_{}(session: Session, database: Database) -> dict[str, Any]:",
    "# new": "async def new_{}(session: AsyncSession, database: Database) -> dict[str, Any]:",
}

# What people look for, and what they find in a new block.
TOPICS = {
    "first": ".limit(1)",
    "all": ".all()",
    "one": ".one()",
    "one or none": ".one_or_none()",
    "get": "session.get(",
    "lock": "with_for_update=True",
    "filter": ".where(",
    "filter by": ".filter_by(",
    "order": ".desc()",
    "paging by number": ".offset(",
    "paging by key": "Book.id > last_id",
    "what scalars() does": ".scalars().all()",
    "count": "func.count()",
    "exists": ".exists()",
    "aggregates": "func.max(",
    "group by": ".group_by(",
    "join": ".join(",
    "outer join": ".outerjoin(",
    "eager loading, one more query": "selectinload(",
    "eager loading, same query": "joinedload(",
    "eager loading, same query, many": ".unique()",
    "refresh": "session.refresh(",
    "delete": "await session.delete(",
    "update in bulk": "update(Book)",
    "delete in bulk": "delete(Book)",
    "insert many": "insert(Book), rows",
<% if cookiecutter.database == "postgresql" %>
    "upsert": ".on_conflict_do_update(",
<% else %>
    "upsert": ".on_duplicate_key_update(",
<% endif %>
    "transaction": "async with database.session()",
    "savepoint": "session.begin_nested()",
    "queries at once": "asyncio.gather(",
    "old functions": "session.run_sync(",
    "threads": "asyncio.to_thread(",
    "raw SQL": "text(",
    "bind parameters": '{"pages": 300}',
    "streaming": "session.stream_scalars(",
    "streaming in parts": ".partitions(",
    "get one by, in short": "get_one_by(",
    "get or 404": "get_or_404(",
    "exists, in short": "await exists(",
    "page, in short": "await page(",
    "upsert, in short": "await upsert(",
}


def slug(heading: str) -> str:
    """Return a heading as a part of a function's name."""
    return re.sub(r"\W+", "_", heading.lower()).strip("_")


def as_module(page: str) -> tuple[str, dict[str, list[str]]]:
    """Return the page as a Python module, line for line, and the marks of each heading's blocks.

    Old and new blocks become functions that return their variables, and text becomes empty lines.
    Raises KeyError for a block without a mark.
    """
    lines = []
    blocks: dict[str, list[str]] = defaultdict(list)
    heading = mark = ""
    for line, following in pairwise([*page.splitlines(), ""]):
        if mark and line == "```":
            lines.append("    return locals()" if MARKS[mark] else "")
            mark = ""
        elif mark:
            lines.append(f"    {line}".rstrip() if MARKS[mark] else line)
        elif line.startswith("```"):
            mark = following
            blocks[heading].append(mark)
            lines.append(MARKS[mark].format(slug(heading)))
        else:
            heading = line.lstrip("# ") if re.match("##+ ", line) else heading
            lines.append("")
    return "\n".join(lines), blocks


PAGE = (PROJECT / "PHRASEBOOK.md").read_text(encoding="utf-8")
SOURCE, BLOCKS = as_module(PAGE)
PHRASES = [heading for heading, marks in BLOCKS.items() if set(marks) != {"# module"}]
FUNCTIONS = {
    node.name: "\n".join(SOURCE.splitlines()[node.lineno - 1 : node.end_lineno])
    for node in ast.parse(SOURCE).body
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
}

# SQLAlchemy looks among the modules for what annotations name.
phrasebook = sys.modules["phrasebook"] = ModuleType("phrasebook")
exec(compile(SOURCE, "PHRASEBOOK.md", "exec"), phrasebook.__dict__)


def promises(function: str) -> dict[str, Any]:
    """Return what stands behind `# ->`, by what is assigned in that line."""
    lines = FUNCTIONS[function].splitlines()
    return {
        ast.unparse(node.targets[0]): ast.literal_eval(promise)
        for node in ast.walk(ast.parse(FUNCTIONS[function]))
        if isinstance(node, ast.Assign)
        for promise in lines[(node.end_lineno or 0) - 1].split("# -> ")[1:]
    }


def plain(value: Any) -> Any:
    """Return data in a form that can be compared. Raises TypeError for what is something else."""
    match value:
        case None | bool() | int() | str() | bytes():
            return value
        case list():
            return [plain(item) for item in value]
        case tuple() | Row():
            return tuple(plain(item) for item in value)
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case phrasebook.Base():
            names = [column.name for column in value.__table__.columns]
            return type(value).__name__, {name: plain(getattr(value, name)) for name in names}
    raise TypeError


def data(variables: dict[str, Any]) -> dict[str, Any]:
    """Return the variables that hold data, in a form that can be compared."""
    found = {}
    for name, value in variables.items():
        with suppress(TypeError):
            found[name] = plain(value)
    return found


class Library:
    """A database with the example's tables."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.example: list[Any] = []
        self.changed = True

    async def create(self) -> None:
        """Create the tables, with the example's rows."""
        async with self.database.engine.begin() as connection:
            await connection.run_sync(phrasebook.Base.metadata.create_all)
        await self.restore()
        self.example = await self.rows()

    async def restore(self) -> None:
        """Put the example's rows into the tables, with ids from 1 on, in place of all others."""
        async with self.database.engine.begin() as connection:
<% if cookiecutter.database == "postgresql" %>
            await connection.execute(text("TRUNCATE authors, books RESTART IDENTITY"))
<% else %>
            await connection.execute(text("SET foreign_key_checks = 0"))
            await connection.execute(text("TRUNCATE authors"))
            await connection.execute(text("TRUNCATE books"))
            await connection.execute(text("SET foreign_key_checks = 1"))
<% endif %>
        async with self.database.session() as session:
            session.add_all(phrasebook.example())

    async def rows(self) -> list[Any]:
        """Return what the tables hold."""
        async with self.database.engine.connect() as connection:
            return [
                (await connection.execute(select(table).order_by(table.c.id))).all()
                for table in phrasebook.Base.metadata.sorted_tables
            ]

    async def run(self, function: str) -> tuple[dict[str, Any], list[Any]]:
        """Run a block on the example's rows; return its data, and what the tables hold then.

        Its commits are real: some blocks use several connections.
        """
        if self.changed:
            await self.restore()
        self.changed = True
        if function.startswith("old"):
            async with self.database.engine.connect() as connection:
                values = await connection.run_sync(self._run_old, function)
        else:
            async with self.database.session() as session:
                variables = await getattr(phrasebook, function)(session, self.database)
                values = await session.run_sync(lambda _: data(variables))
        rows = await self.rows()
        self.changed = rows != self.example
        return values, rows

    def _run_old(self, connection: Connection, function: str) -> dict[str, Any]:
        with Session(connection) as session, warnings.catch_warnings():
            # `Query.get`, for example.
            warnings.simplefilter("ignore", Base20DeprecationWarning)
            event.listen(session, "do_orm_execute", load_when_looked_at)
            return data(getattr(phrasebook, function)(session, self.database))


def load_when_looked_at(state: ORMExecuteState) -> None:
    """Load relationships as the models of an old project do."""
    if state.is_select:
        state.statement = state.statement.options(lazyload("*"))


@pytest.fixture(scope="session")
def library_url(database_url: URL) -> Iterator[URL]:
    """Make a database for the example: the service may have tables of the same names."""
    server = make_url(os.environ["TEST_DATABASE_URL"])
    name = f"{database_url.database}_library"
    yield databases.create_database(server, name)
    databases.drop_database(server, name)


@pytest.fixture(scope="session")
async def library(library_url: URL) -> AsyncIterator[Library]:
    """Return the example, on the service's own kind of engine and sessions."""
    async with Database(
        library_url,
        pool_size=1,
        max_overflow=1,
        pool_timeout=3,
        pool_recycle=-1,
        statement_timeout=30,
    ) as database:
        library = Library(database)
        await library.create()
        yield library


@pytest.mark.parametrize("heading", PHRASES)
async def test_phrase(heading: str, library: Library) -> None:
    new, stored_by_new = await library.run(f"new_{slug(heading)}")

    promised = promises(f"new_{slug(heading)}")
    assert {target: eval(target, {}, new) for target in promised} == promised
    if "# old" not in BLOCKS[heading]:
        assert promised
        return
    old, stored_by_old = await library.run(f"old_{slug(heading)}")
    assert {name: value for name, value in new.items() if name in old} == old
    assert stored_by_new == stored_by_old
    assert any(old.values()) or stored_by_old != library.example


def test_every_block_is_run_and_every_promise_kept() -> None:
    blocks = sum(map(len, BLOCKS.values()))
    fences = re.findall(r"^\s*((?:```|~~~).*)", PAGE, re.MULTILINE)
    assert Counter(fences) == {"```python": blocks, "```": blocks}

    run = []
    for heading in PHRASES:
        kinds = [mark.removeprefix("# ") for mark in BLOCKS[heading] if MARKS[mark]]
        assert kinds in (["old", "new"], ["new"]), heading
        run += [f"{kind}_{slug(heading)}" for kind in kinds]
    assert sorted(run) == sorted(name for name in FUNCTIONS if name.startswith(("old_", "new_")))
    new = [name for name in run if name.startswith("new_")]
    assert sum(len(promises(name)) for name in new) == SOURCE.count("# -> ")


def test_every_topic_has_a_phrase() -> None:
    new = "".join(FUNCTIONS[f"new_{slug(heading)}"] for heading in PHRASES)

    assert [topic for topic, code in TOPICS.items() if code not in new] == []


@pytest.mark.parametrize(
    ("heading", "by_cursor"), [("All", False), ("Objects", True), ("Rows, in parts", True)]
)
async def test_streams_come_from_a_cursor_on_the_server(
    heading: str, by_cursor: bool, library: Library
) -> None:
    cursors = []

    def keep(_: Connection, cursor: Any, statement: str, *rest: object) -> None:
        if statement.startswith("SELECT"):
            cursors.append(cursor.server_side)

    engine = library.database.engine.sync_engine
    event.listen(engine, "after_cursor_execute", keep)
    async with library.database.session() as session:
        await getattr(phrasebook, f"new_{slug(heading)}")(session, library.database)
    event.remove(engine, "after_cursor_execute", keep)

    assert cursors == [by_cursor]


def test_every_link_within_the_page_leads_somewhere() -> None:
    sections = re.findall(r"^## (.+)", PAGE, re.MULTILINE)

    links = set(re.findall(r"\(#(.+?)\)", PAGE))
    assert links == {section.lower().replace(" ", "-") for section in sections} - {"the-example"}


async def test_the_helpers_say_no(library: Library) -> None:
    author, book = phrasebook.Author, phrasebook.Book
    async with library.database.session() as session:
        assert await phrasebook.get_one_by(session, author, name="Nobody") is None
        with pytest.raises(HTTPException, match="404: No such author"):
            await phrasebook.get_or_404(session, author, 99)
        assert await phrasebook.exists(session, book.pages > 200, book.author_id == 3) is False
        assert await phrasebook.page(session, select(book).order_by(book.id), 3, 2) == ([], 4)
        library.changed = True
        nobody = await phrasebook.upsert(session, author, by="name", name="Nobody", born=1)
        assert nobody is await phrasebook.get_one_by(session, author, name="Nobody")


async def test_the_traps_are_where_the_page_says(library: Library) -> None:
    author = phrasebook.Author
    async with library.database.session() as session:
        lem = await session.get_one(author, 1)
        with pytest.raises(InvalidRequestError, match=r"'Author\.books' is not available"):
            await session.run_sync(lambda _: lem.books)
        query = select(author).execution_options(populate_existing=True)
        await session.scalars(query.options(lazyload(author.books)))
        with pytest.raises(SQLAlchemyError, match=r"greenlet_spawn has not been called"):
            _ = lem.books
        with pytest.raises(InvalidRequestError, match=r"unique\(\) method must be invoked"):
            (await session.scalars(select(author).options(joinedload(author.books)))).all()
        with pytest.raises(ArgumentError, match=r"should be explicitly declared as text"):
            await session.execute("SELECT 1")  # type: ignore[call-overload]
