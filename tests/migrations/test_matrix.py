"""Any model's migration is written by autogenerate, and goes up, down and up again.

Run in a generated project, by its own Python. Each case is a list of states of the models. From
state to state, and at last to none of it, autogenerate writes a revision, which goes up; then the
database is as the models say. Then it goes down; the database is as the models said before. And
up again.
"""

import asyncio
import enum
import gc
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from app.models import Base
from dev import database as databases
from dev import server as dev_server
from sqlalchemy import URL, Column, ForeignKey, MetaData, Table, TypeDecorator
from sqlalchemy.dialects import mysql, postgresql
from tests.core import test_migrations as core

PROJECT = Path.cwd()
IS_POSTGRESQL = hasattr(dev_server, "open_to_all")

# Declares tables, beside those of the service.
State = Callable[[MetaData], object]


def nothing(_: MetaData) -> None:
    """Declare nothing."""


@pytest.fixture(scope="session")
def server() -> Iterator[URL]:
    # SQLAlchemy keeps what it asks the catalogues by, for each of the many engines here: to look
    # through all of that as often as usual takes a third of the time.
    gc.set_threshold(50_000, 20, 50)
    with databases.running() as url:
        yield url


class Models:
    """The models of a service, with tables beside them, and a database that follows."""

    def __init__(self, config: Config, url: URL) -> None:
        self.config = config
        self.url = url
        self.own = set(Base.metadata.tables)
        self.versions = Path(config.get_main_option("script_location") or "") / "versions"

    def declare(self, state: State) -> None:
        for table in [t for key, t in Base.metadata.tables.items() if key not in self.own]:
            Base.metadata.remove(table)
        state(Base.metadata)

    def check(self) -> None:
        command.check(self.config)

    def execute(self, statement: str) -> str:
        return asyncio.run(databases.execute(self.url, statement))

    def written(self) -> set[Path]:
        return set(self.versions.glob("*.py"))

    def check_statements(self, revisions: list[Path]) -> None:
        """Fail where a revision cannot be written as SQL, or has two changes that MySQL commits."""
        for script in ScriptDirectory.from_config(self.config).walk_revisions():
            if Path(script.path) not in revisions:
                continue
            self.config.output_buffer = StringIO()
            command.upgrade(self.config, f"{script.down_revision}:{script.revision}", sql=True)
            sql = self.config.output_buffer.getvalue().replace("alembic_version", "")
            changes = re.findall(r"^(?:ALTER|COMMENT|CREATE|DROP) .*", sql, re.MULTILINE)
            assert changes
            assert IS_POSTGRESQL or len(changes) == 1, changes

    def follow(self, before: State, after: State) -> str:
        """Go from one state to the next, back, and again; return what was written."""
        old = self.written()
        self.declare(after)
        command.revision(self.config, "follow", autogenerate=True)
        new = sorted(self.written() - old)
        text = "\n".join(path.read_text() for path in new)
        try:
            command.upgrade(self.config, "head")
            command.downgrade(self.config, f"-{len(new)}")
            self.declare(before)
            # Alembic compares only with all revisions done: there are none of these for a moment.
            for path in new:
                path.rename(path.with_suffix(".later"))
            self.check()
            for path in new:
                path.with_suffix(".later").rename(path)
            self.declare(after)
            command.upgrade(self.config, "head")
            self.check()
            self.check_statements(new)
        except BaseException:
            print(text)
            raise
        return text


@pytest.fixture
def models(server: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Models]:
    shutil.copytree(PROJECT / "migrations", tmp_path / "migrations")
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    config.set_main_option(
        "file_template",
        "%%(year)d%%(month).2d%%(day).2d_%%(hour).2d%%(minute).2d%%(second).2d_%%(slug)s_%%(rev)s",
    )
    with databases.temporary(server, f"matrix_{uuid4().hex[:12]}") as url:
        monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
        for extension in ("citext", "hstore") if IS_POSTGRESQL else ():
            asyncio.run(databases.execute(url, f"CREATE EXTENSION {extension}"))
        command.upgrade(config, "head")
        models = Models(config, url)
        yield models
        models.declare(nothing)


def key() -> Column[int]:
    return Column("id", sa.Integer, primary_key=True)


class Color(enum.Enum):
    red = 1
    green = 2


class Shouting(TypeDecorator[str]):
    """A type of one's own."""

    impl = sa.String(30)
    cache_ok = True


GENERIC: dict[str, Any] = {
    "big_integer": sa.BigInteger(),
    "boolean": sa.Boolean(),
    "date": sa.Date(),
    "date_time": sa.DateTime(),
    "date_time_zone": sa.DateTime(timezone=True),
    "double": sa.Double(),
    "enum_class": sa.Enum(Color),
    "enum_values": sa.Enum("a", "b", name="letters"),
    "enum_text": sa.Enum("a", "b", name="plain", native_enum=False, length=10),
    "enum_checked": sa.Enum(
        "a", "b", name="checked", native_enum=False, create_constraint=True, length=10
    ),
    "float": sa.Float(),
    "float_24": sa.Float(24),
    "integer": sa.Integer(),
    "interval": sa.Interval(),
    "json": sa.JSON(),
    "large_binary": sa.LargeBinary(),
    "numeric": sa.Numeric(10, 2),
    "pickle": sa.PickleType(),
    "small_integer": sa.SmallInteger(),
    "string": sa.String(50),
    "text": sa.Text(),
    "time": sa.Time(),
    "unicode": sa.Unicode(50),
    "unicode_text": sa.UnicodeText(),
    "uuid": sa.Uuid(),
    "uuid_text": sa.Uuid(native_uuid=False),
    "variant": sa.String(50).with_variant(sa.Text(), "postgresql"),
    "own": Shouting(),
    "upper_char": sa.CHAR(3),
    "upper_decimal": sa.DECIMAL(12, 3),
    "upper_timestamp": sa.TIMESTAMP(),
    "upper_varchar": sa.VARCHAR(20),
    "upper_real": sa.REAL(),
    "upper_numeric": sa.NUMERIC(5),
    "upper_bigint": sa.BIGINT(),
    "upper_boolean": sa.BOOLEAN(),
    "upper_date": sa.DATE(),
    "upper_double_precision": sa.DOUBLE_PRECISION(),
    "upper_float": sa.FLOAT(),
    "upper_integer": sa.INTEGER(),
    "upper_smallint": sa.SMALLINT(),
    "upper_text": sa.TEXT(),
    "upper_time": sa.TIME(),
}

if IS_POSTGRESQL:
    SPECIAL: dict[str, Any] = {
        "array": sa.ARRAY(sa.Integer),
        "array_2": postgresql.ARRAY(sa.String(10), dimensions=2),
        "array_enum": sa.ARRAY(sa.Enum("x", "y", name="axes")),
        "array_uuid": sa.ARRAY(sa.Uuid),
        "pg_enum": postgresql.ENUM("n", "s", name="poles"),
        "bit": postgresql.BIT(3),
        "bit_varying": postgresql.BIT(3, varying=True),
        "bytea": postgresql.BYTEA(),
        "cidr": postgresql.CIDR(),
        "daterange": postgresql.DATERANGE(),
        "datemultirange": postgresql.DATEMULTIRANGE(),
        "double_precision": postgresql.DOUBLE_PRECISION(),
        "inet": postgresql.INET(),
        "int4range": postgresql.INT4RANGE(),
        "int8range": postgresql.INT8RANGE(),
        "interval_pg": postgresql.INTERVAL(),
        "interval_days": postgresql.INTERVAL(fields="DAY TO SECOND"),
        "interval_second": sa.Interval(second_precision=3),
        "hstore": postgresql.HSTORE(),
        "citext": postgresql.CITEXT(),
        "json_pg": postgresql.JSON(),
        "jsonb": postgresql.JSONB(),
        "regconfig": postgresql.REGCONFIG(),
        "int4multirange": postgresql.INT4MULTIRANGE(),
        "int8multirange": postgresql.INT8MULTIRANGE(),
        "nummultirange": postgresql.NUMMULTIRANGE(),
        "tsmultirange": postgresql.TSMULTIRANGE(),
        "tstzmultirange": postgresql.TSTZMULTIRANGE(),
        "upper_uuid": sa.UUID(),
        "macaddr": postgresql.MACADDR(),
        "macaddr8": postgresql.MACADDR8(),
        "money": postgresql.MONEY(),
        "numrange": postgresql.NUMRANGE(),
        "oid": postgresql.OID(),
        "regclass": postgresql.REGCLASS(),
        "time_3": postgresql.TIME(precision=3),
        "timestamp_3": postgresql.TIMESTAMP(precision=3, timezone=True),
        "tsquery": postgresql.TSQUERY(),
        "tsrange": postgresql.TSRANGE(),
        "tstzrange": postgresql.TSTZRANGE(),
        "tsvector": postgresql.TSVECTOR(),
        "uuid_pg": postgresql.UUID(),
    }
else:
    SPECIAL = {
        "bit": mysql.BIT(3),
        "blob": mysql.BLOB(),
        "date_time_6": mysql.DATETIME(fsp=6),
        "decimal": mysql.DECIMAL(10, 2, unsigned=True),
        "double_my": mysql.DOUBLE(),
        "enum_my": mysql.ENUM("x", "y"),
        "float_my": mysql.FLOAT(),
        "integer_my": mysql.INTEGER(unsigned=True),
        "big_my": mysql.BIGINT(unsigned=True),
        "longblob": mysql.LONGBLOB(),
        "longtext": mysql.LONGTEXT(),
        "mediumblob": mysql.MEDIUMBLOB(),
        "mediumint": mysql.MEDIUMINT(),
        "mediumtext": mysql.MEDIUMTEXT(),
        "set": mysql.SET("a", "b"),
        "smallint": mysql.SMALLINT(),
        "text_my": mysql.TEXT(),
        "time_my": mysql.TIME(fsp=3),
        "timestamp_my": mysql.TIMESTAMP(fsp=3),
        "tinyblob": mysql.TINYBLOB(),
        "tinyint": mysql.TINYINT(),
        "tinytext": mysql.TINYTEXT(),
        "varbinary": mysql.VARBINARY(20),
        "binary": sa.BINARY(16),
        "varchar": mysql.VARCHAR(20, collation="utf8mb4_bin"),
        "year": mysql.YEAR(),
        "char_my": mysql.CHAR(4, collation="utf8mb4_bin"),
        "json_my": mysql.JSON(),
        "nchar": mysql.NCHAR(4),
        "nvarchar": mysql.NVARCHAR(4),
        "upper_nchar": sa.NCHAR(4),
        "upper_nvarchar": sa.NVARCHAR(4),
        "numeric_my": mysql.NUMERIC(8, 2),
        "real_my": mysql.REAL(),
        "upper_double": sa.DOUBLE(),
        "upper_datetime": sa.DATETIME(),
    }


def all_types(*leave_out: str) -> State:
    """Declare a column of every type; drift names the column."""

    def state(metadata: MetaData) -> None:
        for name, types in {"generic": GENERIC, "special": SPECIAL}.items():
            columns = [Column(column, types[column]) for column in types if column not in leave_out]
            Table(name, metadata, key(), *columns)

    return state


def keys_only(metadata: MetaData) -> None:
    """Declare the same tables before they had columns."""
    for name in "generic", "special":
        Table(name, metadata, key())


def referring(**options: Any) -> State:
    """Declare a table that refers to another one."""

    def state(metadata: MetaData) -> None:
        Table("owners", metadata, key())
        Table("pets", metadata, key(), Column("owner_id", ForeignKey("owners.id"), **options))

    return state


def owners_and(*declare: Callable[[], Any]) -> State:
    """Declare a table to refer to, and one with columns and constraints."""

    def state(metadata: MetaData) -> None:
        Table("owners", metadata, key(), Column("name", sa.String(20)))
        Table("pets", metadata, key(), *[item() for item in declare])

    return state


def owner(**options: Any) -> Callable[[], Any]:
    return lambda: Column("owner_id", ForeignKey("owners.id"), **options)


def column(name: str, type_: Any = sa.Integer, *more: Any, **options: Any) -> Callable[[], Any]:
    return lambda: Column(name, type_, *[m() for m in more], **options)


def index(name: str, *expressions: Any, **options: Any) -> Callable[[], Any]:
    return lambda: sa.Index(name, *expressions, **options)


def of(*declare: Callable[[], Any], **options: Any) -> State:
    """Declare a table with a key and more."""

    def state(metadata: MetaData) -> None:
        Table("things", metadata, key(), *[item() for item in declare], **options)

    return state


def circle(metadata: MetaData) -> None:
    Table("hens", metadata, key(), Column("egg_id", ForeignKey("eggs.id", use_alter=True)))
    Table("eggs", metadata, key(), Column("hen_id", ForeignKey("hens.id")))


def plain_circle(metadata: MetaData) -> None:
    # The one that comes first by its name refers to the other, and to one that comes last.
    Table("eggs", metadata, key(), Column("hen_id", ForeignKey("hens.id")))
    Table(
        "hens",
        metadata,
        key(),
        Column("egg_id", ForeignKey("eggs.id")),
        Column("yard_id", ForeignKey("yards.id")),
    )
    Table("yards", metadata, key())


def tree(metadata: MetaData) -> None:
    Table("nodes", metadata, key(), Column("parent_id", ForeignKey("nodes.id"), index=True))


def composite(metadata: MetaData) -> None:
    Table(
        "shelves",
        metadata,
        Column("room", sa.Integer, primary_key=True),
        Column("number", sa.Integer, primary_key=True),
    )
    Table(
        "books",
        metadata,
        key(),
        Column("room", sa.Integer),
        Column("number", sa.Integer),
        sa.ForeignKeyConstraint(["room", "number"], ["shelves.room", "shelves.number"]),
        sa.Index(None, "room", "number"),
    )


def many(metadata: MetaData) -> None:
    for number in range(12):
        Table(f"table_{number:02}", metadata, key(), Column("name", sa.String(20), index=True))


A = column("a")
B = column("b")
NAME = column("name", sa.String(20))
SCHEMA_ONLY_PG: dict[str, list[State]] = {}

CASES: dict[str, list[State]] = {
    "foreign_key": [referring()],
    "foreign_key_index": [referring(index=True)],
    "foreign_key_unique": [referring(unique=True)],
    "foreign_key_index_later": [referring(), referring(index=True), referring()],
    "foreign_key_unique_later": [referring(), referring(unique=True), referring()],
    "foreign_key_column_later": [owners_and(), owners_and(owner()), owners_and()],
    "foreign_key_column_index_later": [owners_and(), owners_and(owner(index=True)), owners_and()],
    "foreign_key_later": [
        owners_and(column("owner_id")),
        owners_and(owner()),
        owners_and(column("owner_id")),
    ],
    "foreign_key_later_index": [
        owners_and(column("owner_id", index=True)),
        owners_and(owner(index=True)),
        owners_and(column("owner_id", index=True)),
    ],
    "foreign_key_later_index_too": [
        owners_and(column("owner_id")),
        owners_and(owner(index=True)),
        owners_and(column("owner_id")),
    ],
    "foreign_key_wider_index": [
        owners_and(owner(), A, index("ix_pets", "owner_id")),
        owners_and(owner(), A, index("ix_pets", "owner_id", "a")),
        owners_and(owner(), A, index("ix_other", "owner_id", "a")),
    ],
    "foreign_key_ondelete": [
        referring(),
        owners_and(lambda: Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"))),
        owners_and(
            lambda: Column("owner_id", ForeignKey("owners.id", ondelete="SET NULL"), index=True)
        ),
    ],
    "foreign_key_table_goes": [referring(index=True), of()],
    "foreign_key_target_goes": [
        referring(index=True),
        lambda metadata: Table("pets", metadata, key(), Column("owner_id", sa.Integer)),
    ],
    "foreign_key_composite": [composite],
    "foreign_key_itself": [tree],
    "foreign_key_circle": [circle],
    "foreign_key_plain_circle": [plain_circle],
    "unique": [of(A, B), of(A, B, lambda: sa.UniqueConstraint("a", "b")), of(A, B)],
    "unique_column": [of(A), of(column("a", unique=True)), of(A)],
    "unique_new": [of(column("a", unique=True), column("b", unique=True, index=True))],
    "index": [of(A), of(column("a", index=True)), of(A)],
    "index_unique": [of(A), of(A, index("ix_a", "a", unique=True)), of(A)],
    "index_composite": [of(A, B, index("ix_a_b", "a", "b")), of(A, B, index("ix_a_b", "b", "a"))],
    "index_expression": [
        of(NAME),
        of(
            NAME,
            index(
                "ix_lower", sa.text("lower(name)") if IS_POSTGRESQL else sa.text("(lower(name))")
            ),
        ),
        of(NAME),
    ],
    "index_descending": [
        of(A, B),
        of(A, B, index("ix_a", sa.text("a DESC"), "b")),
        of(A, B, index("ix_a", sa.text("a DESC"), "b"), index("ix_b", "b")),
        of(A, B),
    ],
    "check": [
        of(A, lambda: sa.CheckConstraint("a > 0", name="positive")),
        of(A),
        of(A, lambda: sa.CheckConstraint("a > 0", name="positive")),
        of(A, lambda: sa.CheckConstraint("a > 1 AND a <> 5", name="positive")),
        of(B, lambda: sa.CheckConstraint("b > 0", name="positive")),
    ],
    "check_in_column": [
        of(lambda: Column("a", sa.Integer, sa.CheckConstraint("a > 0", name="positive"))),
        of(lambda: Column("a", sa.Integer, sa.CheckConstraint("a > 1", name="positive"))),
        of(A),
    ],
    "check_colon": [
        of(NAME, lambda: sa.CheckConstraint(r"name <> 'a \:x'", name="odd")),
        of(NAME, lambda: sa.CheckConstraint(r"name <> 'a \:y'", name="odd")),
        of(NAME),
    ],
    "check_expression": [
        lambda metadata: Table(
            "things",
            metadata,
            key(),
            a := A(),
            n := NAME(),
            sa.CheckConstraint((a > 0) | n.in_(["x", "it's"]), name="odd"),
        ),
        lambda metadata: Table(
            "things",
            metadata,
            key(),
            a := A(),
            n := NAME(),
            sa.CheckConstraint((a > 0) | n.in_(["x", "it's", "y"]), name="odd"),
        ),
    ],
    "check_enum": [
        of(
            column(
                "a", sa.Enum(*values, name="p", native_enum=False, create_constraint=True, length=9)
            )
        )
        for values in (("x", "y"), ("x", "y", "z"), ("x",))
    ],
    "composite_key": [
        lambda metadata: Table(
            "pairs",
            metadata,
            Column("a", sa.Integer, primary_key=True, autoincrement=False),
            Column("b", sa.String(20), primary_key=True),
        )
    ],
    "text_key": [
        lambda metadata: Table("codes", metadata, Column("code", sa.String(8), primary_key=True))
    ],
    "uuid_key": [
        lambda metadata: Table("uuids", metadata, Column("id", sa.Uuid, primary_key=True))
    ],
    "computed": [of(A, column("twice", sa.Integer, lambda: sa.Computed("a * 2", persisted=True)))],
    "computed_later": [
        of(A),
        of(A, column("twice", sa.Integer, lambda: sa.Computed("a * 2", persisted=True))),
        of(A),
    ],
    "comment": [of(A), of(column("a", comment="It's"), comment="100 %"), of(A)],
    "nullable": [of(NAME), of(column("name", sa.String(20), nullable=False)), of(NAME)],
    "nullable_index": [
        of(column("a", index=True)),
        of(column("a", index=True, nullable=False)),
        of(column("a", index=True)),
    ],
    "longer": [of(NAME), of(column("name", sa.String(40))), of(column("name", sa.Text))],
    "bigger": [of(A), of(column("a", sa.BigInteger))],
    "many": [many],
    "odd_names": [
        lambda metadata: Table(
            "order",
            metadata,
            key(),
            Column("group", sa.Integer, index=True),
            Column("Mixed Case", sa.Integer),
        )
    ],
}

DEFAULTS: dict[str, tuple[Any, Any]] = {
    "true": (sa.Boolean, sa.true()),
    "false": (sa.Boolean, sa.false()),
    "text_true": (sa.Boolean, sa.text("true")),
    "one": (sa.Integer, "1"),
    "text_one": (sa.Integer, sa.text("1")),
    "minus": (sa.Integer, sa.text("-1")),
    "big": (sa.BigInteger, sa.text("0")),
    "decimal": (sa.Numeric(10, 2), sa.text("0.50")),
    "decimal_0": (sa.Numeric(10, 2), sa.text("0")),
    "decimal_text": (sa.Numeric(10, 2), "0"),
    "decimal_short": (sa.Numeric(10, 2), sa.text("0.5")),
    "double_long": (sa.Double, sa.text("1e20")),
    "string_minus": (sa.String(20), sa.text("-1.50")),
    "float": (sa.Float, sa.text("2.5")),
    "string": (sa.String(20), "it's"),
    "string_empty": (sa.String(20), ""),
    "string_text": (sa.String(20), sa.text("'new'")),
    "enum": (sa.Enum("new", "old", name="age"), "new"),
    "enum_text": (sa.Enum("new", "old", name="age_text"), sa.text("'new'")),
    "enum_plain": (sa.Enum("new", "old", name="age_plain", native_enum=False), "new"),
    "date": (sa.Date, sa.text("'2020-01-01'")),
    "date_text": (sa.Date, "2020-01-01"),
    "now": (sa.DateTime, sa.func.now()),
    "current_date": (sa.Date, sa.text("CURRENT_DATE") if IS_POSTGRESQL else sa.text("(curdate())")),
    "time": (sa.Time, "10:00:00"),
}
if IS_POSTGRESQL:
    DEFAULTS |= {
        "zone": (sa.DateTime(timezone=True), sa.func.now()),
        "utc": (sa.DateTime, sa.text("(now() AT TIME ZONE 'utc')")),
        "uuid": (sa.Uuid, sa.text("gen_random_uuid()")),
        "uuid_func": (sa.Uuid, sa.func.gen_random_uuid()),
        "json": (sa.JSON, sa.text("'{}'")),
        "jsonb": (postgresql.JSONB, sa.text("'{}'::jsonb")),
        "jsonb_text": (postgresql.JSONB, "{}"),
        "array": (sa.ARRAY(sa.Integer), sa.text("'{}'")),
        "array_text": (sa.ARRAY(sa.String(10)), "{}"),
        "array_enum": (sa.ARRAY(sa.Enum("n", "s", name="pole")), "{}"),
        "interval": (sa.Interval, sa.text("'1 day'")),
        "bytes": (sa.LargeBinary, sa.text(r"'\x00'::bytea")),
        "inet": (postgresql.INET, "127.0.0.1"),
    }
else:
    DEFAULTS |= {
        "now_6": (mysql.DATETIME(fsp=6), sa.text("(utc_timestamp(6))")),
        "current_6": (mysql.DATETIME(fsp=6), sa.text("CURRENT_TIMESTAMP(6)")),
        "on_update": (
            mysql.DATETIME(fsp=6),
            sa.text("CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)"),
        ),
        "uuid": (sa.Uuid(native_uuid=False), sa.text("(uuid())")),
        "json": (sa.JSON, sa.text("('{}')")),
        "json_object": (sa.JSON, sa.text("(json_object())")),
        "text": (sa.Text, sa.text("('x')")),
        "unsigned": (mysql.INTEGER(unsigned=True), sa.text("0")),
        "tiny": (mysql.TINYINT(1), sa.text("1")),
        "tiny_text": (mysql.TINYINT(1), "1"),
        "set": (mysql.SET("a", "b"), "a"),
    }


def defaults(with_default: bool, *leave_out: str, **options: Any) -> State:
    """Declare a table with a column for each default."""
    return of(
        *[
            column(name, type_, server_default=default if with_default else None, **options)
            for name, (type_, default) in DEFAULTS.items()
            if name not in leave_out
        ]
    )


CASES |= {
    "types": [all_types()],
    # A column with a check is two changes: MySQL's own test says to make a revision of each.
    "types_later": [keys_only, all_types("enum_checked"), keys_only],
    "defaults": [defaults(True)],
    # MySQL refuses to give a default that differs from row to row to a table that is there (1674).
    "defaults_later": [
        defaults(False, "uuid"),
        defaults(True, "uuid"),
        defaults(True, "uuid", nullable=False),
        of(),
    ],
    "defaults_with_columns": [
        of(),
        defaults(True, "uuid", nullable=False),
        defaults(False, "uuid"),
        of(),
    ],
}


class Words(sa.types.UserDefinedType[Any]):
    """A type that SQLAlchemy does not know, as other libraries bring them."""

    cache_ok = True

    def __init__(self, words: str) -> None:
        self.words = words

    def get_col_spec(self, **_: Any) -> str:
        return self.words


def spot(words: str, **options: Any) -> Callable[[], Any]:
    return column("spot", Words(words), comment="It's", **options)


def collated(collation: str | None) -> State:
    """Declare a table with a collation, and columns with the same, with another and with none."""
    options = {"mysql_collate": "utf8mb4_unicode_520_ci"}
    kind = sa.String(20, collation=collation)
    return of(NAME, *[column(name, kind) for name in ("a", "b")], **options)


if IS_POSTGRESQL:
    CASES |= {
        "unknown_type": [of(spot("path")), of(spot("polygon")), of()],
        "unknown_type_later": [of(), of(spot("xml", nullable=False)), of()],
        "unknown_array": [of(spot("path[]")), of(spot("polygon[]")), of()],
    }
else:
    CASES |= {
        "unknown_type": [of(spot("POINT")), of(spot("LINESTRING")), of()],
        "unknown_type_later": [of(), of(spot("POINT", nullable=False)), of()],
        "collated_table": [
            collated("utf8mb4_unicode_520_ci"),
            collated("utf8mb4_bin"),
            collated(None),
        ],
        "backtick": [
            of(column("a`b", index=True)),
            of(column("a`b", sa.BigInteger), index("ix_odd", "a`b", "id")),
            of(),
        ],
    }
CASES |= {
    "default_changes": [
        of(column("a", sa.Boolean, server_default=sa.true())),
        of(column("a", sa.Boolean, server_default=sa.false())),
    ],
}


def letters(*values: str, **options: Any) -> Any:
    return sa.Enum(*values, name="letters", **options)


def enum_of(*values: str, type_: Any = letters, **options: Any) -> State:
    return of(column("letter", type_(*values), **options))


def decorated(*values: str) -> Any:
    class Letters(TypeDecorator[str]):
        impl = sa.Enum(*values, name="letters")
        cache_ok = True

    return Letters()


def two_tables(*values: str) -> State:
    def state(metadata: MetaData) -> None:
        Table("first", metadata, key(), Column("letter", letters(*values)))
        Table("second", metadata, key(), Column("letter", letters(*values), index=True))

    return state


CASES |= {
    "enum_more": [enum_of("a", "b"), enum_of("a", "b", "c")],
    "enum_more_in_the_middle": [enum_of("a", "d"), enum_of("a", "b", "c", "d")],
    "enum_more_at_the_start": [enum_of("b", "c"), enum_of("a", "b", "c")],
    "enum_more_mixed": [enum_of("b", "d"), enum_of("a", "b", "c", "d", "e")],
    "enum_less": [enum_of("a", "b", "c"), enum_of("a", "c")],
    "enum_other": [enum_of("a", "b"), enum_of("a", "c")],
    "enum_odd": [enum_of("it's", "50%", "a:b"), enum_of("it's", "50%", "a:b", "d'or", ":x", "1%")],
    "enum_odd_less": [enum_of("it's", "50%", "a:b", "x"), enum_of("it's", "50%", "a:b")],
    "enum_default_more": [
        enum_of("a", "b", server_default="a"),
        enum_of("a", "b", "c", server_default="a"),
        enum_of("a", "c", server_default="a"),
    ],
    "enum_default_new": [
        enum_of("a", "b", server_default="a"),
        enum_of("a", "b", "c", server_default="c"),
    ],
    "enum_column": [of(), enum_of("a"), of()],
    "enum_two_tables": [two_tables("a", "b"), two_tables("a", "b", "c"), enum_of("a", "b", "c")],
    "enum_name": [
        of(column("letter", sa.Enum("a", "b", name="Odd Letters"))),
        of(column("letter", sa.Enum("a", "b", "c", name="Odd Letters"))),
    ],
    "enum_from_text": [
        of(column("letter", sa.String(20))),
        enum_of("a", "b"),
        of(column("letter", sa.String(20))),
    ],
    "enum_decorated": [
        of(column("letter", decorated("a", "b"))),
        of(column("letter", decorated("a", "b", "c"))),
        of(),
        of(column("letter", decorated("a", "b", "c"))),
    ],
    "enum_index": [
        of(column("letter", letters("a", "b"), index=True)),
        of(column("letter", letters("a", "b", "c"), index=True)),
        of(column("letter", letters("a", "c"), index=True)),
    ],
}
if IS_POSTGRESQL:
    CASES |= {
        "enum_order": [enum_of("a", "b"), enum_of("b", "a")],
        "enum_renamed": [
            of(column("letter", sa.Enum("a", "b", name="letters"))),
            of(column("letter", sa.Enum("a", "b", name="signs"))),
        ],
        "enum_array": [
            of(column("letter", sa.ARRAY(letters("a", "b+")), server_default="{}")),
            of(column("letter", sa.ARRAY(letters("a", "b+", "c?")), server_default="{}")),
            of(column("letter", sa.ARRAY(letters("a", "c?")), server_default="{}")),
            of(),
            of(column("letter", sa.ARRAY(letters("a", "c?")), server_default="{}")),
        ],
        "enum_partial_index": [
            of(
                column("letter", letters(*values)),
                index("ix_a", "letter", postgresql_where=sa.text("letter = 'a'")),
            )
            for values in (("a", "b"), ("a", "b", "c"), ("a", "c"))
        ],
        "enum_pg": [
            of(column("letter", postgresql.ENUM("a", "b", name="letters"))),
            of(column("letter", postgresql.ENUM("a", "b", "c", name="letters"))),
            of(),
        ],
        "identity": [
            lambda metadata: Table(
                "ids", metadata, Column("id", sa.BigInteger, sa.Identity(), primary_key=True)
            ),
            lambda metadata: Table(
                "ids",
                metadata,
                Column("id", sa.BigInteger, sa.Identity(always=True, start=100), primary_key=True),
            ),
        ],
        "identity_later": [of(), of(column("a", sa.Integer, sa.Identity)), of()],
        "index_partial": [
            of(A),
            of(A, index("ix_a", "a", postgresql_where=sa.text("a > 0"))),
            of(A),
        ],
        "index_gin": [
            of(column("a", postgresql.JSONB), index("ix_a", "a", postgresql_using="gin"))
        ],
        "exclude": [
            of(
                column("during", postgresql.TSTZRANGE),
                lambda: postgresql.ExcludeConstraint(("during", "&&"), name="ex_during"),
            )
        ],
        "deferrable": [
            owners_and(
                lambda: Column(
                    "owner_id", ForeignKey("owners.id", deferrable=True, initially="DEFERRED")
                )
            )
        ],
        "computed_virtual": [
            of(A, column("twice", sa.Integer, lambda: sa.Computed("a * 2", persisted=False)))
        ],
    }
    for table_schema in ("billing", "Odd Schema"):

        def invoices(*more: Callable[[], Any], schema: str = table_schema) -> State:
            def state(metadata: MetaData) -> None:
                Table("customers", metadata, key(), schema=schema)
                Table(
                    "invoices",
                    metadata,
                    key(),
                    Column("customer_id", ForeignKey(f"{schema}.customers.id"), index=True),
                    Column("user_id", ForeignKey("users.id")),
                    *[item() for item in more],
                    schema=schema,
                )

            return state

        CASES |= {
            f"schema_{table_schema}": [
                invoices(),
                invoices(A),
                invoices(column("a", unique=True)),
                invoices(),
            ],
            f"schema_{table_schema}_enum": [
                invoices(column("letter", letters("a", "b", schema=table_schema))),
                invoices(column("letter", letters("a", "b", "c", schema=table_schema))),
                invoices(),
            ],
        }
else:
    CASES |= {
        "enum_set": [
            of(column("a", mysql.SET("a", "b"))),
            of(column("a", mysql.SET("a", "b", "c"))),
        ],
        "index_fulltext": [of(NAME, index("ix_name", "name", mysql_prefix="FULLTEXT"))],
        "index_length": [of(column("a", sa.Text), index("ix_a", "a", mysql_length=20))],
        "computed_virtual": [
            of(A, column("twice", sa.Integer, lambda: sa.Computed("a * 2", persisted=False)))
        ],
        "auto_increment_later": [
            lambda metadata: Table("ids", metadata, Column("id", sa.Integer, primary_key=True)),
            lambda metadata: Table("ids", metadata, Column("id", sa.BigInteger, primary_key=True)),
        ],
    }


@pytest.mark.parametrize("case", CASES)
def test_case(models: Models, case: str) -> None:
    version = models.execute("SELECT version()")
    refused: AbstractContextManager[object]
    if case == "index_expression" and "MariaDB" in version:
        # It has none of these.
        refused = pytest.raises(sa.exc.ProgrammingError, match="error in your SQL syntax")
    else:
        refused = nullcontext()
    before: State = nothing
    with refused:
        # A schema that no model names any more is not looked at.
        last = [] if case.startswith("schema_") else [nothing]
        for after in [*CASES[case], *last]:
            models.follow(before, after)
            before = after
    if last and IS_POSTGRESQL:
        types = "SELECT count(*) FROM pg_type WHERE typtype = 'e'"
        assert models.execute(types) == "0"


REFUSED: dict[str, tuple[State, str]] = {}
if IS_POSTGRESQL:
    REFUSED = {
        "nameless": (of(column("a", sa.Enum("x"))), r"Enum of \w+\.a needs a name"),
        "same_name": (
            of(column("a", sa.Enum("x", name="e")), column("b", sa.Enum("y", name="e"))),
            r"Enum of \w+\.b has the name of one with other members, e:",
        ),
        "long_enum": (of(column("a", sa.Enum("x", name="ü" * 32))), "ü: PostgreSQL cuts names"),
        "long_column": (of(column("a" * 64)), "a: PostgreSQL cuts names after 63 bytes"),
        "long_table": (lambda metadata: Table("t" * 64, metadata, key()), "t: PostgreSQL cuts"),
        "schema": (
            lambda metadata: Table(
                "leaves",
                metadata,
                key(),
                Column("up", ForeignKey("public.leaves.id")),
                schema="public",
            ),
            'leaves: leave out the schema "public", here and in foreign keys',
        ),
    }


def test_what_cannot_be_written_is_refused_in_one_line(models: Models) -> None:
    """MySQL has no types to name, and cuts no names: it refuses long ones by itself."""
    for state, reason in REFUSED.values():
        models.declare(state)
        with pytest.raises(CommandError, match=reason) as refused:
            command.revision(models.config, "refused", autogenerate=True)
        assert "\n" not in str(refused.value)


def test_two_lines_of_revisions_are_joined(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two people have each written a revision after the same one."""
    [head] = ScriptDirectory.from_config(models.config).get_heads()
    for name in "first", "last":
        command.revision(models.config, name, head=head, splice=True)
    with pytest.raises(AssertionError, match="Join them: uv run alembic merge"):
        core.test_one_head_and_names_that_sort_by_time(models.config)
    command.upgrade(models.config, "heads")
    command.merge(models.config, "heads", "merge")
    [merge] = models.versions.glob("*_merge_*.py")
    text = merge.read_text()
    merge.write_text(text.replace("    pass", "    raise KeyError", 1))
    with pytest.raises(KeyError):
        command.upgrade(models.config, "head")
    merge.write_text(text)
    command.upgrade(models.config, "head")
    models.check()
    core.test_one_head_and_names_that_sort_by_time(models.config)
    if check := getattr(core, "test_a_revision_changes_the_schema_once", None):
        check(models.config, capsys)


# Columns before and after, a value as SQL, and what it is in the end and before.
CASTS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str, str, str]] = {
    "text_to_number": (column("a", sa.String(9)), column("a"), "'12'", "12", "12"),
    "truth_to_number": (
        column("a", sa.Boolean, server_default=sa.true(), nullable=False),
        column("a", server_default="1"),
        "false",
        "0",
        "False" if IS_POSTGRESQL else "0",
    ),
    "day_to_text": (
        column("a", sa.Date, server_default="2026-01-02"),
        column("a", sa.String(10), server_default="2026-01-03", nullable=False),
        "'2026-03-04'",
        "2026-03-04",
        "2026-03-04",
    ),
    "document_to_text": (column("a", sa.JSON), column("a", sa.Text), "'[1]'", "[1]", "[1]"),
    "day_to_moment": (
        column("a", sa.Date),
        column("a", sa.DateTime),
        "'2026-03-04'",
        "2026-03-04 00:00:00",
        "2026-03-04",
    ),
}
if IS_POSTGRESQL:
    ID = str(uuid4())
    TEXTS = column("a", postgresql.ARRAY(sa.Text))
    CASTS |= {
        "key_to_text": (column("a", sa.Uuid), column("a", sa.String(36)), f"'{ID}'", ID, ID),
        "numbers_to_texts": (
            column("a", postgresql.ARRAY(sa.Integer)),
            TEXTS,
            "'{1}'",
            "['1']",
            "[1]",
        ),
        "called_to_text": (
            column("a", server_default=sa.text("length('x')")),
            column("a", sa.Text),
            "1",
            "1",
            "1",
        ),
    }


@pytest.mark.parametrize("case", CASTS)
def test_values_go_along_with_a_type_and_back(models: Models, case: str) -> None:
    before, after, given, then, last = CASTS[case]
    models.follow(nothing, of(before))
    models.execute(f"INSERT INTO things (a) VALUES ({given})")
    models.follow(of(before), of(after))
    assert models.execute("SELECT a FROM things") == then
    models.follow(of(after), of(before))
    assert models.execute("SELECT a FROM things") == last


def test_what_a_revision_cannot_know_is_said(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = of(column("old"), column("an")), of(column("new", nullable=False))
    models.follow(nothing, before)
    caplog.clear()
    models.follow(before, after)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said[0].startswith("things.an or old goes, with its values, and new comes. ")
    assert said[0].endswith("op.alter_column('things', 'an', new_column_name='new')")
    assert len(said) == 1 or not IS_POSTGRESQL
    assert IS_POSTGRESQL or said[1].startswith("things.new: MySQL gives the rows that are there 0")


def test_a_precision_is_written(models: Models) -> None:
    """Alembic does not compare it."""
    written = models.follow(nothing, of(column("lasts", sa.Interval(second_precision=3))))
    assert "sa.Interval(second_precision=3)" in written or not IS_POSTGRESQL


if IS_POSTGRESQL:

    def test_tables_that_others_make_stay(models: Models) -> None:
        """Partitions are made by the day, and an extension brings tables: no model names them."""

        def parted(*members: str) -> State:
            return lambda metadata: Table(
                "parted",
                metadata,
                Column("id", sa.Integer, primary_key=True, autoincrement=False),
                Column("kind", sa.Enum(*members, name="kind")),
                postgresql_partition_by="RANGE (id)",
            )

        models.follow(nothing, parted("a", "b"))
        for statement in (
            'CREATE TABLE "First" PARTITION OF parted FOR VALUES FROM (0) TO (10)',
            "INSERT INTO parted VALUES (1, 'a')",
            "CREATE TABLE brought (id int PRIMARY KEY)",
            "ALTER EXTENSION citext ADD TABLE brought",
        ):
            models.execute(statement)
        models.check()
        models.follow(parted("a", "b"), parted("a"))
        assert models.execute('SELECT kind FROM "First"') == "a"
else:

    def test_the_key_that_mysql_adds_stays(models: Models) -> None:
        """With sql_generate_invisible_primary_key, as hosted servers have it; MariaDB has none."""
        models.follow(nothing, lambda metadata: Table("keyless", metadata, Column("a", sa.Integer)))
        added = "my_row_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT INVISIBLE PRIMARY KEY FIRST"
        models.execute(f"ALTER TABLE keyless ADD {added}")
        models.check()
        models.declare(
            lambda metadata: Table(
                "keyless",
                metadata,
                Column("my_row_id", mysql.BIGINT(unsigned=True), primary_key=True),
                Column("a", sa.Integer),
            )
        )
        models.check()


# The other database has them, or they are for expressions and for types of one's own.
NOT_FOR_COLUMNS = """
AbstractMultiRange AbstractRange AbstractSingleRange ARRAY BINARY BLOB CLOB DATETIME DOMAIN DOUBLE
INET4 INET6 JSONPATH MatchType NCHAR NVARCHAR NamedType NullType TupleType TypeDecorator TypeEngine
UUID UserDefinedType VARBINARY Variant _Binary
""".split()


def test_the_catalogue_is_whole() -> None:
    classes = {
        item
        for module in (sa.types, postgresql if IS_POSTGRESQL else mysql)
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, sa.types.TypeEngine)
    }
    here = {type(item) for item in (GENERIC | SPECIAL).values()}
    assert {item.__name__ for item in classes - here} <= set(NOT_FOR_COLUMNS)
