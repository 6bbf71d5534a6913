"""Single statements do what a session does, or say what to write when they are defined.

The models are of these tests' own: nothing here rests on the example.
"""

import gc
import logging
import random
import uuid
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NotRequired

import pytest
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
<% if cookiecutter.database == "postgresql" %>
    ARRAY,
<% endif %>
    JSON,
    BigInteger,
    BindParameter,
    ColumnElement,
    Dialect,
<% if cookiecutter.database == "postgresql" %>
    Identity,
<% endif %>
    String,
    TypeDecorator,
    Uuid,
<% if cookiecutter.database == "postgresql" %>
    any_,
<% endif %>
    bindparam,
    event,
    func,
    literal,
    select,
    text,
    type_coerce,
    update,
)
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, composite, mapped_column, validates
from typing_extensions import TypedDict

from app.core import checks
from app.core.db import Database, error_code
from app.core.queries import Create, Queries, Read, Update
from tests.core.conftest import started, tables_of


class Apart(DeclarativeBase):
    """A base whose tables no migration knows."""
<% if cookiecutter.database == "mysql" %>

    __table_args__ = {"mysql_charset": "utf8mb4"}
<% endif %>


class Note(Apart):
    """A row with each kind of default, and columns that are called otherwise than here."""

    __tablename__ = "_test_notes"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    number: Mapped[int | None] = mapped_column("number_of_it")
    plain: Mapped[str | None] = mapped_column(String(20))
    needed: Mapped[str] = mapped_column(String(20))
    constant: Mapped[str | None] = mapped_column(String(20), default="constant")
    called: Mapped[str | None] = mapped_column(String(20), insert_default=lambda: "called")
    doubled: Mapped[int | None] = mapped_column(
        default=lambda context: 2 * (context.get_current_parameters()["number_of_it"] or 0)
    )
    # What comes later has no value yet.
    asked: Mapped[str | None] = mapped_column(
        String(20), default=lambda context: str(context.get_current_parameters()["later"])
    )
    later: Mapped[str | None] = mapped_column(String(20), default=lambda: "later")
    computed: Mapped[int | None] = mapped_column(default=func.length("four"))
    served: Mapped[str | None] = mapped_column(String(20), server_default="served")
    document: Mapped[Any | None] = mapped_column(JSON)
    changed: Mapped[str | None] = mapped_column(String(20), onupdate="changed")
    changes: Mapped[int | None] = mapped_column(onupdate=lambda: 7)
    length: Mapped[int | None] = mapped_column(onupdate=func.length("four"))


class Reversed(TypeDecorator[str]):
    """A text that SQL turns round on its way in and out; what comes out has no type of ours."""

    impl = String(20)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str:
        """Show that it was called."""
        return f"{value}!"

    def bind_expression(self, bindvalue: BindParameter[str]) -> ColumnElement[str]:
        """Turn it round."""
        return func.reverse(bindvalue)

    def column_expression(self, column: ColumnElement[str]) -> ColumnElement[str]:
        """Turn it back."""
        return func.reverse(column)


@dataclass
class Span:
    """Two columns in one."""

    first: int
    last: int


class Watched(Apart):
    """A row whose object hears of its own changes, which is nothing to a statement."""

    __tablename__ = "_test_watched"
    id: Mapped[int] = mapped_column(primary_key=True)
    span: Mapped[Span] = composite(mapped_column("first"), mapped_column("last"))
    document: Mapped[Any] = mapped_column(MutableDict.as_mutable(JSON))


class Odd(Apart):
    """A row with defaults that only a session can ask for, where no value is given."""

    __tablename__ = "_test_odd"
    id: Mapped[int] = mapped_column(primary_key=True)
    among: Mapped[int | None] = mapped_column(
        default=select(func.max(literal(1))).where(literal(1).in_([1, 2])).scalar_subquery()
    )
    asked: Mapped[int | None] = mapped_column(default=lambda context: context.connection)


class Mirror(Apart):
    """A row with SQL around its column."""

    __tablename__ = "_test_mirrors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Reversed)


class Owner(Apart):
    """A row with a number of the server's, which can be given as well."""

    __tablename__ = "_test_owners"
<% if cookiecutter.database == "postgresql" %>
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
<% else %>
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
<% endif %>
    name: Mapped[str] = mapped_column(String(20))


<% if cookiecutter.database == "mysql" %>
class Served(Apart):
    """A row whose key is made by the server, otherwise than by counting."""

    __tablename__ = "_test_served"
    id: Mapped[int] = mapped_column(primary_key=True, server_default="7", autoincrement=False)
    name: Mapped[str] = mapped_column(String(20))


class Asked(Apart):
    """A row whose key the server is asked for before."""

    __tablename__ = "_test_asked"
    id: Mapped[int] = mapped_column(primary_key=True, default=func.floor(7))
    name: Mapped[str] = mapped_column(String(20))


<% endif %>
class Setting(Apart):
    """A row whose key is somebody else's."""

    __tablename__ = "_test_settings"
    owner_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[str] = mapped_column(String(20))


class Share(Apart):
    """A row with a key of two columns."""

    __tablename__ = "_test_shares"
    owner_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    value: Mapped[str] = mapped_column(String(20))


class NoteRow(BaseModel):
    """The values just as they came back."""

    id: Any
    number: Any
    plain: Any
    needed: Any
    constant: Any
    called: Any
    doubled: Any
    asked: Any
    later: Any
    computed: Any
    served: Any
    document: Any
    changed: Any
    changes: Any
    length: Any


class OwnerRow(BaseModel):
    """The values just as they came back."""

    id: int
    name: str


class SettingRow(BaseModel):
    """The values just as they came back."""

    owner_id: int
    value: str


class ShareRow(SettingRow):
    """The values just as they came back."""

    note_id: uuid.UUID


def columns_of(table: type[DeclarativeBase], row: type[BaseModel]) -> Any:
    """Select what a row has."""
    return select(*(getattr(table, name) for name in row.model_fields))


NOTE, OWNER = columns_of(Note, NoteRow), columns_of(Owner, OwnerRow)
NOTE_BY_ID = Read(NoteRow, NOTE.where(Note.id == bindparam("note_id")))
CREATE_NOTE = Create(NoteRow, Note, NOTE)
CREATE_OWNER = Create(OwnerRow, Owner, OWNER)
CREATE_SETTING = Create(SettingRow, Setting, columns_of(Setting, SettingRow))
CREATE_SHARE = Create(ShareRow, Share, columns_of(Share, ShareRow))
CHANGE_NOTE = Update(update(Note).where(Note.id == bindparam("note_id")))


@pytest.fixture
async def queries(database: Database) -> AsyncIterator[Queries]:
    """Make the tables, for one test."""
    async with tables_of(Apart.metadata, database):
        yield Queries(database)


async def by_session(database: Database, values: dict[str, Any]) -> dict[str, Any]:
    """Store a note as a session does, and return what was stored."""
    async with database.session() as session:
        note = Note(**values)
        session.add(note)
        await session.flush()
    return await stored(database, note.id)


async def stored(database: Database, note_id: uuid.UUID) -> dict[str, Any]:
    """Return a note as the server has it, JSON's null told from NULL."""
    async with database.session() as session:
        found = await session.execute(
            NOTE.add_columns(Note.document.is_(None).label("is_null")).where(Note.id == note_id)
        )
        return dict(found.mappings().one())


def without_id(values: dict[str, Any]) -> dict[str, Any]:
    """Return what is not by chance."""
    return {name: value for name, value in values.items() if name != "id"}


async def outcome(way: Callable[[], Any]) -> Any:
    """Return what comes of it: values, or the class and number of the error."""
    try:
        return without_id(await way())
    except DBAPIError as error:
        return type(error), error_code(error)


def some_values(random: random.Random) -> dict[str, Any]:
    """Return values for some columns, NULL among them."""
    texts = [None, "", "text", "ü🙂", "%s $1 :x"]
    choices: dict[str, list[Any]] = {
        "id": [None, uuid.UUID(int=random.getrandbits(128), version=4)],
        "number": [None, 0, -5, 2**31 - 1],
        "document": [None, [], {"a": None}, "text", 0],
        "doubled": [None, 3],
        "computed": [None, 5],
        "changes": [None, 1],
        "length": [None, 2],
    }
    names = random.sample(list(NoteRow.model_fields), random.randrange(len(NoteRow.model_fields)))
    values = {name: random.choice(choices.get(name, texts)) for name in names}
    # Without it, or with NULL, nothing is stored: seldom.
    if random.random() < 0.9:
        values["needed"] = "needed"
    return values


async def test_both_ways_store_the_same(queries: Queries, database: Database) -> None:
    seed = random.randrange(10**6)
    print(f"STATEMENTS_SEED={seed}")
    chance = random.Random(seed)
    for _ in range(40):
        values = some_values(chance)

        async def fast(values: dict[str, Any] = values) -> dict[str, Any]:
            created = await queries.create(CREATE_NOTE, **values)
            assert created == await queries.first(NOTE_BY_ID, note_id=created.id)
            return await stored(database, created.id)

        async def slow(values: dict[str, Any] = values) -> dict[str, Any]:
            # The same key cannot be stored twice.
            return await by_session(database, without_id(values))

        assert await outcome(fast) == await outcome(slow), values


async def test_both_ways_change_the_same(queries: Queries, database: Database) -> None:
    seed = random.randrange(10**6)
    print(f"STATEMENTS_SEED={seed}")
    chance = random.Random(seed)
    ids = [(await queries.create(CREATE_NOTE, needed="needed")).id for _ in range(2)]
    for _ in range(40):
        values = without_id(some_values(chance)) or {"number": 1}

        async def fast(values: dict[str, Any] = values) -> dict[str, Any]:
            assert await queries.execute(CHANGE_NOTE, note_id=ids[0], **values) == 1
            return await stored(database, ids[0])

        async def slow(values: dict[str, Any] = values) -> dict[str, Any]:
            async with database.session() as session:
                await session.execute(update(Note).where(Note.id == ids[1]).values(**values))
            return await stored(database, ids[1])

        assert await outcome(fast) == await outcome(slow), values
    assert await queries.execute(CHANGE_NOTE, note_id=uuid.uuid4(), number=1) == 0


async def test_sql_around_a_column_is_as_in_a_session(queries: Queries, database: Database) -> None:
    mirror = columns_of(Mirror, OwnerRow)
    created = await queries.create(Create(OwnerRow, Mirror, mirror), name="abc")
    by_id = Read(OwnerRow, mirror.where(Mirror.id == bindparam("key")))
    async with database.session() as session:
        found = (await session.execute(mirror)).mappings().one()
    assert created == await queries.first(by_id, key=created.id) == OwnerRow(**found)
    assert created.name == "abc"


async def test_a_refused_value_leaves_no_lock(queries: Queries, database: Database) -> None:
    note = await queries.create(CREATE_NOTE, needed="needed")
    refused: list[Callable[[], Any]] = [
        # By the driver, by a default, by the server.
        lambda: queries.create(CREATE_NOTE, needed="needed", changes=2**31),
        lambda: queries.create(CREATE_NOTE, needed="needed", number=object(), changes=1),
        lambda: queries.create(CREATE_NOTE, needed=None, length=1),
        lambda: queries.execute(CHANGE_NOTE, note_id=note.id, changes=2**31),
    ]
    async with database.engine.connect() as other:
        for refuse in refused:
            with pytest.raises((DBAPIError, TypeError)):
                await refuse()
<% if cookiecutter.database == "postgresql" %>
            await other.execute(text("LOCK TABLE _test_notes IN ACCESS EXCLUSIVE MODE NOWAIT"))
<% else %>
            await other.execute(text("LOCK TABLES _test_notes WRITE"))
            await other.execute(text("UNLOCK TABLES"))
<% endif %>
            await other.rollback()


@pytest.mark.usefixtures("queries")
async def test_a_refused_value_costs_no_connection() -> None:
    # Its own pool: in the shared one, what other tests have ended may be opened anew meanwhile.
    async with started(pool_size=1) as (_, database):
        queries = Queries(database)
        note = await queries.create(CREATE_NOTE, needed="needed")
        opened: list[object] = []
        event.listen(database.engine.sync_engine, "connect", lambda *_: opened.append(_))
        for number in range(3):
            with pytest.raises(DBAPIError):
                await queries.create(CREATE_NOTE, needed=None, length=number)
            with pytest.raises(DBAPIError):
                await queries.execute(CHANGE_NOTE, note_id=note.id, changes=2**31)
        assert opened == []


async def test_each_key_is_answered_with_its_own_row(queries: Queries) -> None:
    first = await queries.create(CREATE_OWNER, name="first")
    for owner_id in (first.id + 10, first.id + 5):
        setting = await queries.create(CREATE_SETTING, owner_id=owner_id, value=f"of {owner_id}")
        assert setting == SettingRow(owner_id=owner_id, value=f"of {owner_id}")
        # What has a number of the server's, may be given one.
        owner = await queries.create(CREATE_OWNER, id=owner_id + 100, name=f"is {owner_id}")
        assert owner == OwnerRow(id=owner_id + 100, name=f"is {owner_id}")
    for note_id in (uuid.uuid4(), uuid.uuid4()):
        share = await queries.create(CREATE_SHARE, owner_id=1, note_id=note_id, value="v")
        assert share == ShareRow(owner_id=1, note_id=note_id, value="v")


class Wrong(BaseModel):
    """A schema with a field that no column has."""

    name: str
    nmae: str


class Checked(Apart):
    """A model that looks at what it is given."""

    __tablename__ = "_test_checked"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))

    @validates("name")
    def check(self, _: str, value: str) -> str:
        """Change it."""
        return value.lower()


class Versioned(Apart):
    """A model that counts its versions."""

    __tablename__ = "_test_versioned"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}


class Peculiar(Apart):
    """A model that makes itself."""

    __tablename__ = "_test_peculiar"
    id: Mapped[int] = mapped_column(primary_key=True)

    def __init__(self) -> None:
        self.id = 5


class Shared(Apart):
    """A model whose table is that of others too."""

    __tablename__ = "_test_shared"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": name}


class Whimsical(Apart):
    """A model that has its own mind about what it is given."""

    __tablename__ = "_test_whimsical"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.lower() if name == "name" else value)


class Selected(Apart):
    """A model of what is selected, rather than of a table."""

    __table__ = Owner.__table__.alias()
    id: Mapped[int]
    name: Mapped[str]


@dataclass
class Misspelt:
    """A row whose optional field is no column."""

    id: int
    nmae: str | None = None


class Narrow(TypedDict):
    """A row that has no name."""

    id: int


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "two of one name": (
        "Two columns are called id",
        lambda: Read(OwnerRow, OWNER.add_columns(Owner.id)),
    ),
    "no name": (r"\.label", lambda: Read(OwnerRow, select(Owner.id, func.lower(Owner.name)))),
    "dropped": ("no value, only id", lambda: Read(OwnerRow, OWNER.add_columns(Setting.value))),
    "dropped by a dataclass": (
        "Misspelt has no name, only id, nmae",
        lambda: Read(Misspelt, OWNER),
    ),
    "dropped by a TypedDict": ("Narrow has no name", lambda: Read(Narrow, OWNER)),
    "missing": ("needs name", lambda: Read(OwnerRow, select(Owner.id))),
    "scalar of two": ("do not make one", lambda: Read(int, OWNER)),
    "objects": ("select columns", lambda: Read(OwnerRow, select(Owner))),
    "text": (r"text\(…\)\.columns", lambda: Read(OwnerRow, text("SELECT 1"))),  # type: ignore[arg-type]
    "text by names": (
        "in the text's order",
        lambda: Read(
            OwnerRow,
            text("SELECT name, id FROM _test_owners").columns(id=BigInteger, name=String),
        ),
    ),
    "in": ("in place of", lambda: Read(OwnerRow, OWNER.where(Owner.id.in_([1, 2])))),
    "in of a parameter": (
        "in place of",
        lambda: Read(OwnerRow, OWNER.where(Owner.id.in_(bindparam("ids", expanding=True)))),
    ),
    "options": (
        "options",
        lambda: Read(OwnerRow, OWNER.execution_options(schema_translate_map={None: "x"})),
    ),
    "schema": (
        "No such name: nmae; there is id, name",
        lambda: Create(OwnerRow, Owner, OWNER, given=Wrong),
    ),
    "another table": ("its own columns", lambda: Create(OwnerRow, Setting, OWNER)),
    "a condition": ("its own columns", lambda: Create(OwnerRow, Owner, OWNER.where(Owner.id == 1))),
    "validators": (
        "validates name",
        lambda: Create(OwnerRow, Checked, columns_of(Checked, OwnerRow)),
    ),
    "versions": (
        "counts",
        lambda: Update(update(Versioned).where(Versioned.id == bindparam("key"))),
    ),
    "shared": ("shares its own", lambda: Create(OwnerRow, Shared, columns_of(Shared, OwnerRow))),
    "own __init__": ("__init__", lambda: Create(OwnerRow, Peculiar, select(Owner.id, Owner.name))),
    "own __setattr__": (
        "__setattr__",
        lambda: Create(OwnerRow, Whimsical, columns_of(Whimsical, OwnerRow)),
    ),
    "no table": ("others", lambda: Create(OwnerRow, Selected, columns_of(Selected, OwnerRow))),
    "parameter like a column's other name": (
        "call the parameter otherwise",
        lambda: Update(update(Note).where(Note.id == bindparam("number_of_it"))),
    ),
    "parameter like a column": (
        "call the parameter otherwise",
        lambda: Update(update(Owner).where(Owner.id == bindparam("id"))),
    ),
    "rows of an update": ("how many", lambda: Update(update(Owner).returning(Owner.id))),
    "a table": ("Update a model", lambda: Update(update(Owner.__table__))),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_session_would_do_otherwise_is_refused_at_once(case: str) -> None:
    message, define = REFUSED[case]
    with pytest.raises(TypeError, match=message):
        define()


async def test_what_shows_in_use_is_refused_then(queries: Queries) -> None:
    create = Create(int, Odd, select(Odd.id))
    with pytest.raises(TypeError, match="text of this statement depends on its values"):
        await queries.create(create, id=1, asked=1)
    with pytest.raises(TypeError, match="context's `connection` needs a session"):
        await queries.create(create, id=1, among=1)
<% if cookiecutter.database == "postgresql" %>
    wider = Read(OwnerRow, text("SELECT 1, 'a', 2").columns(Owner.id, Owner.name))
    with pytest.raises(TypeError, match="The server gives 3 columns, not 2"):
        await queries.all(wider)
<% endif %>


async def test_a_value_that_is_sql_is_refused(queries: Queries) -> None:
    owner = await queries.create(CREATE_OWNER, name="a")
    change = Update(update(Owner).where(Owner.id == bindparam("owner_id")))
    with pytest.raises(TypeError, match="The value of name is SQL"):
        await queries.create(CREATE_OWNER, name=func.upper("b"))
    with pytest.raises(TypeError, match="The value of name is SQL"):
        await queries.execute(change, owner_id=owner.id, name=func.upper(Owner.name))


async def test_parameters_and_columns_may_have_any_name(queries: Queries) -> None:
    both = bindparam("self", type_=BigInteger) + bindparam("read", type_=BigInteger)
    change = Update(update(Owner).where(Owner.id == bindparam("update")))
    values = {"self": 1, "read": 2}

    assert await queries.all(Read(int, select(both)), **values) == [3]
    assert await queries.first(Read(int, select(both)), **values) == 3
    assert await queries.execute(change, update=0, name="a") == 0
    with pytest.raises(TypeError, match="No such name: create"):
        await queries.create(CREATE_OWNER, name="a", create=1)


class Titled(BaseModel):
    """A row whose field has another name as well."""

    model_config = ConfigDict(populate_by_name=True)
    id: int
    name: str = Field(alias="title")


class Wide(Narrow):
    """A row that may have more than the columns."""

    more: NotRequired[str]


async def test_what_looks_alike_works(queries: Queries) -> None:
    for name in ("a", "b", "c"):
        await queries.create(CREATE_OWNER, name=name)
    count = Read(int, select(func.count()).select_from(Owner))
    names = text("SELECT id AS number, name FROM _test_owners WHERE name > :name ORDER BY name")
    named = Read(OwnerRow, names.columns(Owner.id, Owner.name))
    labelled = Read(OwnerRow, select(Owner.id, (Owner.name + "!").label("name")).order_by("name"))

    assert await queries.first(count) == 3
    assert [row.name for row in await queries.all(named, name="a")] == ["b", "c"]
    assert [row.name for row in await queries.all(labelled)] == ["a!", "b!", "c!"]
    titled = Read(Titled, OWNER.order_by(Owner.name).limit(1))
    assert [row.name for row in await queries.all(titled)] == ["a"]
    assert await queries.all(Read(Wide, select(Owner.id).limit(1))) == [{"id": 1}]
    note = await queries.create(CREATE_NOTE, needed="a")
    note_id = Read(str, select(type_coerce(Note.id, Uuid(as_uuid=False))))
    assert await queries.all(note_id) == [str(note.id)]
<% if cookiecutter.database == "postgresql" %>
    ids = bindparam("ids", type_=ARRAY(BigInteger))
    among = Read(str, select(Owner.name).where(Owner.id == any_(ids)).order_by(Owner.name))
    assert await queries.all(among, ids=[1, 3]) == ["a", "c"]
<% endif %>


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("do_orm_execute", "read, update"),
        # Where the tenant of row level security is set.
        ("after_begin", "read, create, update"),
        ("before_attach", "create"),
        ("after_attach", "create"),
        ("transient_to_pending", "create"),
        ("pending_to_persistent", "create"),
        ("before_flush", "create"),
        ("after_flush", "create"),
        ("after_flush_postexec", "create"),
        ("before_commit", "create, update"),
        ("after_commit", "create, update"),
    ],
)
async def test_who_listens_to_sessions_is_not_passed_by(
    queries: Queries, name: str, kinds: str
) -> None:
    def audit(*_: object) -> None: ...

    read, create = Read(int, select(Owner.id)), Create(OwnerRow, Owner, OWNER)
    change = Update(update(Owner).where(Owner.id == bindparam("key")))
    uses: list[Callable[[], Any]] = [
        *([lambda: queries.all(read)] if "read" in kinds else []),
        *([lambda: queries.create(create, name="a")] if "create" in kinds else []),
        *([lambda: queries.execute(change, key=1, name="b")] if "update" in kinds else []),
    ]
    event.listen(Session, name, audit)
    try:
        for use in uses:
            with pytest.raises(TypeError, match=f"audit listens to {name}"):
                await use()
        allowed = Read(int, select(Owner.id), ignore_events=True)
        assert await queries.all(allowed) == []
    finally:
        event.remove(Session, name, audit)


@pytest.mark.parametrize(
    ("target", "name"),
    [(Owner, "before_insert"), (Owner, "after_insert"), (Owner, "init"), (Owner.name, "set")],
)
async def test_who_listens_to_a_model_is_not_passed_by(
    queries: Queries, target: Any, name: str
) -> None:
    def audit(*_: object) -> None: ...

    create = Create(OwnerRow, Owner, OWNER)
    event.listen(target, name, audit)
    try:
        with pytest.raises(TypeError, match=f"audit listens to {name}"):
            await queries.create(create, name="a")
    finally:
        event.remove(target, name, audit)


async def test_what_an_object_hears_of_itself_is_nothing_to_a_statement(
    queries: Queries, database: Database
) -> None:
    create = Create(int, Watched, select(Watched.id))
    watched = {"first": 1, "last": 2, "document": {"a": 1}}
    assert await queries.create(create, **watched) == 1
    async with database.session() as session:
        [found] = await session.scalars(select(Watched))
    assert (found.span, found.document) == (Span(1, 2), {"a": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"needed": None},
        {"plain": "longer than twenty characters"},
        {"number": 2**40},
        {"id": uuid.UUID(int=1)},
        {"id": "no UUID"},
        {"document": object},
    ],
    ids=str,
)
async def test_what_catches_the_error_of_a_session_catches_this_one(
    queries: Queries, database: Database, wrong: dict[str, Any]
) -> None:
    await queries.create(CREATE_NOTE, needed="a", id=uuid.UUID(int=1))
    values = {"needed": "a"} | wrong
    with pytest.raises(StatementError) as slow:
        async with database.session() as session:
            session.add(Note(**values))
    with pytest.raises(StatementError) as fast:
        await queries.create(CREATE_NOTE, **values)

    assert type(fast.value) is type(slow.value)
    assert type(fast.value.orig) is type(slow.value.orig)
    assert str(fast.value).splitlines()[0] == str(slow.value).splitlines()[0]


async def test_statements_made_again_and_again_leave_nothing_but_a_warning(
    queries: Queries, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[weakref.ref[Any]] = []
    for _ in range(checks.TOO_MANY + 1):
        read = Read(int, select(Owner.id))
        made.append(weakref.ref(read))
        await queries.all(read)
    gc.collect()

    assert sum(one() is not None for one in made) <= 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "test_statements.py" in caplog.text


async def test_the_log_shows_statements_as_sqlalchemy_does(
    queries: Queries, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine.Engine"):
        await queries.create(CREATE_OWNER, name="secret")
        async with queries.begin() as transaction:
            await transaction.create(CREATE_OWNER, name="secret")

    for part in ("INSERT INTO _test_owners", "BEGIN", "COMMIT"):
        assert part in caplog.text
    # Values are shown by ECHO_SQL only.
    assert "secret" not in caplog.text
<% if cookiecutter.database == "mysql" %>


async def test_without_returning_a_create_is_one_transaction(
    queries: Queries,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As MySQL is, on MariaDB too.
    monkeypatch.setattr(database.engine.dialect, "insert_returning", False)
    with caplog.at_level(logging.INFO, "sqlalchemy.engine.Engine"):
        await test_each_key_is_answered_with_its_own_row(queries)
    labelled = select(Owner.id, (Owner.name + "!").label("name"))
    assert (await queries.create(Create(OwnerRow, Owner, labelled), name="a")).name == "a!"
    with pytest.raises(LookupError, match=r"stored as another one: .* _test_owners"):
        await queries.create(CREATE_OWNER, id=0, name="a")
    with pytest.raises(TypeError, match=r"which key it made: give _test_served\.id"):
        await queries.create(Create(OwnerRow, Served, columns_of(Served, OwnerRow)), name="a")
    with pytest.raises(TypeError, match=r"asked for _test_asked\.id before"):
        await queries.create(Create(OwnerRow, Asked, columns_of(Asked, OwnerRow)), name="a")

    first = [record.getMessage().split()[0] for record in caplog.records][:4]
    assert first == ["BEGIN", "INSERT", "SELECT", "COMMIT"]
<% endif %>
