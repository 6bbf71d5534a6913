<% if cookiecutter.database == "postgresql" %>
"""SQL as SQLAlchemy takes it, and types as the server shows them."""

import re
import warnings
from typing import Any

from sqlalchemy.exc import SAWarning
from sqlalchemy.types import NullType, TypeEngine, UserDefinedType
<% else %>
"""SQL as SQLAlchemy takes it and as the server shows it, and what is not shown as it was given."""

import re
from decimal import Decimal
from typing import Any

from alembic.util import CommandError
from alembic.util.sqla_compat import all_table_check_constraints
from sqlalchemy import (
    Column,
    DefaultClause,
    Float,
    Integer,
    MetaData,
    Numeric,
    Table,
    text,
)
from sqlalchemy.dialects.mysql import JSON
from sqlalchemy.dialects.mysql.reflection import MySQLTableDefinitionParser, ReflectedState
from sqlalchemy.schema import CreateColumn, CreateTable
from sqlalchemy.sql.sqltypes import _Binary
from sqlalchemy.types import TypeEngine, UserDefinedType
<% endif %>

# What `text()` would read as a parameter, or as a colon in disguise.
PARAMETER = re.compile(r"(?<![:\w\\]):\w|\\:")
<% if cookiecutter.database == "mysql" %>

# A default in a line of SHOW CREATE TABLE. What is in quotes counts as one.
PART = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|[^'"`])"""
DEFAULT = re.compile(
    rf"(?P<before>{PART}+?) DEFAULT (?P<default>{PART}+?)"
    r"(?P<after>(?: /\*.*?\*/)*(?: COMMENT '.*)?(?: CHECK \(.*)?,?)"
)

# A number as a default: MySQL shows text, or an expression where it came with its table.
NUMBER = re.compile(r"['(](-?)\(?(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\)?[)']", re.IGNORECASE)

# A column's name and type in such a line, and what geometries have behind.
TYPE = re.compile(r"(?P<name> +`(?:[^`]|``)+` )(?P<type>\w+)(?P<size>\([^)]*\))?")
SRID = re.compile(r" /\*!80003(?P<srid> SRID \d+) \*/")

# Whether tables get other names than they are given.
LOWERS = text("SELECT @@lower_case_table_names = 1")

# What the server's own tables have no letters for: names and comments lose it.
FOUR_BYTES = re.compile("[\U00010000-\U0010ffff]")
<% endif %>


def as_text(sql: str) -> str:
    """Return SQL as `text()` takes it: a colon would begin a parameter, which becomes NULL."""
    return sql.replace(":", r"\:") if PARAMETER.search(sql) else sql


class AsShown(UserDefinedType[Any]):
    """A type that SQLAlchemy does not know, such as POINT, in the server's words."""

    cache_ok = True

    def __init__(self, words: str) -> None:
        self.words = words

    def get_col_spec(self, **_: Any) -> str:
        """Return the words."""
        return self.words
<% if cookiecutter.database == "postgresql" %>


def read_columns(dialect: Any) -> None:
    """Have a dialect read columns of types that SQLAlchemy does not know: it has none for them."""
    read = dialect._reflect_type

    def reflect(words: str | None, *options: Any, **more: Any) -> TypeEngine[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Did not recognize type", SAWarning)
            found: TypeEngine[Any] = read(words, *options, **more)
        return AsShown(words) if words and isinstance(found, NullType) else found

    dialect._reflect_type = reflect
<% endif %>
<% if cookiecutter.database == "mysql" %>


def declared_checks(impl: Any, table: Table) -> dict[str, str]:
    """Return the conditions of a model's checks, by their names."""
    return {
        str(constraint.name): impl.render_ddl_sql_expr(constraint.sqltext)
        for constraint in all_table_check_constraints(table)
        if constraint.name is not None
    }


def bare(name: str) -> str:
    """Return a name out of its backticks: SQLAlchemy leaves two where there is one."""
    return name.replace("``", "`")


def as_kept(default: str, type_: TypeEngine[Any]) -> str:
    """Return a default in one of the forms that the server may keep it in."""
    if number := NUMBER.fullmatch(default):
        value = number[1] + number[2]
        is_number = isinstance(type_, Float | Integer | Numeric)
        return str(Decimal(value).normalize()) if is_number else f"'{value}'"
    # The present time has several names.
    return re.sub(r"^\(?now\((\d?)\)\)?", r"CURRENT_TIMESTAMP(\1)", default).replace("()", "")


class Definitions(MySQLTableDefinitionParser):
    """Reads columns whatever their types and defaults.

    Of some, SQLAlchemy would not even read the comment, or fail.
    """

    def _parse_column(self, line: str, state: ReflectedState) -> None:
        words = None
        if (shown := TYPE.match(line)) and not self.is_known(shown["type"]):
            words = shown["type"] + (shown["size"] or "")
            line = f"{shown['name']}text{line[shown.end() :]}"
            if srid := SRID.search(line):
                words += srid["srid"]
                line = line.replace(srid[0], "")
        found = DEFAULT.fullmatch(line)
        super()._parse_column(found["before"] + found["after"] if found else line, state)
        if found and found["default"] != "NULL":
            # Bits as a number: made again of `b'101'`, MySQL would have an expression.
            bits = re.fullmatch("b'([01]+)'", found["default"])
            state.columns[-1]["default"] = str(int(bits[1], 2)) if bits else found["default"]
        # As MariaDB has JSON. Made again as the text that it is, anything would be let in.
        if re.search(r""" CHECK \(json_valid\(([`"]).+\1\)\),?$""", line):
            state.columns[-1]["type"] = JSON()
        if words is not None:
            state.columns[-1]["type"] = AsShown(words)
        state.columns[-1]["name"] = bare(state.columns[-1]["name"])
        # A collation is of one character set, which MySQL shows beside it or not.
        if getattr(state.columns[-1]["type"], "collation", None):
            state.columns[-1]["type"].charset = None  # type: ignore[attr-defined]

    def _parse_constraints(self, line: str) -> tuple[Any, Any]:
        kind, parsed = super()._parse_constraints(line)
        if isinstance(parsed, dict) and parsed.get("name"):
            parsed["name"] = bare(parsed["name"])
        return kind, parsed

    def _parse_keyexprs(self, identifiers: str) -> list[tuple[str, int | None, str]]:
        parsed = super()._parse_keyexprs(identifiers)
        return [(bare(name), length, modifiers) for name, length, modifiers in parsed]

    def is_known(self, name: str) -> bool:
        """Return whether SQLAlchemy knows a type, rather than nobody or another library."""
        known: Any = self.dialect.ischema_names.get(name, AsShown)
        return str(known.__module__).startswith("sqlalchemy.")


def read_columns(dialect: Any) -> None:
    """Have a dialect read them so."""
    dialect._tabledef_parser = Definitions(dialect, dialect.identifier_preparer)


def refuse_letters(given: str, shown: str, what: str) -> None:
    """Raise CommandError for a letter of four bytes that the server shows as a question mark.

    MySQL shows some in hexadecimal.
    """
    for letter in FOUR_BYTES.findall(given):
        if letter not in shown and letter.encode().hex() not in shown.lower():
            raise CommandError(f"{what} has a letter that the server would not show: {letter}")


def refuse_what_is_lost(impl: Any, metadata: MetaData) -> None:
    """Raise CommandError for what the server shows otherwise than it was given.

    No revision would end the difference, and the next one could lose what was there.
    """
    lowers = impl.connection.scalar(LOWERS)
    for table in metadata.sorted_tables:
        if lowers and table.name != table.name.lower():
            raise CommandError(
                f"{table.name}: this server keeps the names of tables in small letters"
                " (lower_case_table_names = 1); the next revision would drop the table"
            )
        named: list[Any] = [table, *table.indexes, *table.constraints]
        for name in (str(item.name) for item in named):
            refuse_letters(name, "", f"{table.name}: the name {name}")
        refuse_letters(table.comment or "", "", f"{table.name}: its comment")
        for column in table.columns:
            where = f"{table.name}.{column.name}"
            refuse_letters(column.name, "", f"{where}: its name")
            refuse_letters(column.comment or "", "", f"{where}: its comment")
            refuse_bytes(impl, column, where)
        if FOUR_BYTES.search(str(CreateTable(table).compile(dialect=impl.dialect))):
            refuse_letters_within(impl, table)


def refuse_letters_within(impl: Any, table: Table) -> None:
    """Raise CommandError for such letters in a table's defaults, types and conditions."""
    checks = declared_checks(impl, table)
    columns, texts = impl.report(table.columns, checks, like=table)
    if not columns:
        return
    for column, shown in zip(table.columns, columns, strict=True):
        given = str(CreateColumn(column).compile(dialect=impl.dialect))
        refuse_letters(given, repr(shown), f"{table.name}.{column.name}: its default or type")
    for name, given in checks.items():
        refuse_letters(given, texts.get(name, ""), f"{table.name}: the condition {name}")


def refuse_bytes(impl: Any, column: Column[Any], where: str) -> None:
    """Raise CommandError for a default of bytes that are no text: MariaDB shows them as they are."""
    default = column.server_default
    if (
        not impl.dialect.is_mariadb
        or not isinstance(column.type, _Binary)
        or not isinstance(default, DefaultClause)
        or isinstance(default.arg, str)
    ):
        return
    sql = impl.render_ddl_sql_expr(default.arg)
    # A call is shown as one.
    if re.search(r"\w\(", sql):
        return
    value = impl.connection.scalar(text(f"SELECT {sql}"))
    try:
        (value if isinstance(value, bytes) else b"").decode()
    except UnicodeDecodeError:
        raise CommandError(
            f"{where}: its default has bytes that MariaDB could not show: give them by a call, such"
            " as (unhex('ff'))"
        ) from None
<% endif %>
