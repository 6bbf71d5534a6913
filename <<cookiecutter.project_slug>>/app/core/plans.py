"""How a statement of `statements.py` goes to the driver and comes back: compiled once."""

from collections.abc import <% if cookiecutter.database == "postgresql" %>Awaitable, <% endif %>Callable, Iterable, Mapping, Sequence
<% if cookiecutter.database == "postgresql" %>
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Column, Dialect
<% else %>
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BindParameter, Column, Dialect, bindparam
<% endif %>
from sqlalchemy.sql.compiler import SQLCompiler

from .statements import Create, Statement

# Turns a value of Python into one of the driver, or back.
Processor = Callable[[Any], Any]
<% if cookiecutter.database == "postgresql" %>

# Asks the server what it calls the types of a statement's columns.
Describe = Callable[[str], Awaitable[Sequence[int]]]
<% endif %>


class DefaultContext:
    """What a `default=` or `onupdate=` that is a function of one argument is given."""

    def __init__(self, dialect: Dialect, parameters: Mapping[str, Any]) -> None:
        self.dialect = dialect
        self.current_parameters = parameters
        self.current_column: Column[Any] | None = None

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> Mapping[str, Any]:
        """Return the values of the row, by the keys of its columns."""
        return self.current_parameters

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"A default that asks for the context's `{name}` needs a session")


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement as the driver takes it."""

    sql: str
    parameters: Sequence[tuple[str, Processor | None]]
    # What stands in the statement itself, as in `column == 1`; None for what has a default.
    constants: Mapping[str, BindParameter[Any]]
    # What Python adds: the columns with a `default` or an `onupdate`.
    defaults: Sequence[tuple[Column[Any], Any]]
    # None for a single value.
    names: Sequence[str] | None
    # Only the columns whose values the driver gives in another form than SQLAlchemy.
    processors: Sequence[tuple[Any, Processor]]
    dialect: Dialect
<% if cookiecutter.database == "mysql" %>
    # Reads the row that was made, where the server has no INSERT … RETURNING.
    read: "Plan | None" = None
    # The key of that row, and which part of it the server makes.
    key: Sequence[Column[Any]] = ()
    made_by_server: Column[Any] | None = None
<% endif %>

    def complete(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values with constants and defaults, as a session adds them."""
        if not self.constants and not self.defaults:
            return values
        completed = {
            **{name: bind.effective_value for name, bind in self.constants.items()},
            **values,
        }
        context = DefaultContext(self.dialect, completed)
        for column, default in self.defaults:
            context.current_column = column
            completed[column.key] = default.arg(context) if default.is_callable else default.arg
        return completed

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return complete values in the order of the statement, as the driver wants them."""
        return [
            values[name] if processor is None else processor(values[name])
            for name, processor in self.parameters
        ]

    def convert(self, rows: Iterable[Any]) -> list[Any]:
        """Return rows by the names of their columns, or the values that they consist of."""
        if self.names is None:
            if not self.processors:
                return [row[0] for row in rows]
            [(_, processor)] = self.processors
            return [processor(row[0]) for row in rows]
        converted = []
        for row in rows:
            values = dict(zip(self.names, row, strict=True))
            for name, processor in self.processors:
                values[name] = processor(values[name])
            converted.append(values)
        return converted
<% if cookiecutter.database == "mysql" %>

    def key_of(self, values: Mapping[str, Any], last_id: int) -> dict[str, Any]:
        """Return the parameters of `read`, from complete values and the id that was made."""
        return {
            f"key_{column.key}": last_id if column is self.made_by_server else values[column.key]
            for column in self.key
        }
<% endif %>


<% if cookiecutter.database == "postgresql" %>
async def make_plan(
    statement: Statement[Any],
    values: Mapping[str, Any],
    dialect: Dialect,
    ending: str,
    describe: Describe,
) -> Plan:
    """Compile a statement for the names of these values. Raises TypeError where it cannot be."""
    sql = statement.statement
    if isinstance(statement, Create):
        sql = sql.returning(*statement.read.selected_columns)
    compiled = compile_once(sql, values, dialect)
    compiled.string += ending
    columns = compiled._result_columns
    # Some conversions depend on what the server calls the type.
    codes = await describe(compiled.string) if columns else ()
    if len(codes) != len(columns):
        raise TypeError(f"The server gives {len(codes)} columns, not {len(columns)}:\n{sql}")
    return plan_of(compiled, statement.names, codes)
<% else %>
def make_plan(statement: Statement[Any], values: Mapping[str, Any], dialect: Dialect) -> Plan:
    """Compile a statement for the names of these values. Raises TypeError where it cannot be."""
    sql = statement.statement
    if isinstance(statement, Create):
        # MariaDB has it, MySQL has not.
        if not getattr(dialect, "insert_returning", False):
            return plan_to_read_back(statement, values, dialect)
        sql = sql.returning(*statement.read.selected_columns)
    return plan_of(compile_once(sql, values, dialect), statement.names)


def plan_to_read_back(create: Create[Any], values: Mapping[str, Any], dialect: Dialect) -> Plan:
    """Compile an INSERT, and the SELECT by its key that reads what became of it."""
    insert = plan_of(compile_once(create.statement, values, dialect), None)
    table: Any = create.mapper.local_table
    key: list[Column[Any]] = list(table.primary_key)
    known = values.keys() | {column.key for column, _ in insert.defaults}
    unknown = [column for column in key if column.key not in known]
    made_by_server = table.autoincrement_column
    if untold := [column for column in unknown if column is not made_by_server]:
        raise TypeError(
            f"MySQL does not tell which key it made: give {untold[0]}, or a default= in Python"
        )
    where = [column == bindparam(f"key_{column.key}") for column in key]
    select = create.read.where(*where)
    read = plan_of(compile_once(select, {}, dialect), create.names)
    return replace(insert, read=read, key=key, made_by_server=made_by_server if unknown else None)
<% endif %>


def compile_once(sql: Any, values: Mapping[str, Any], dialect: Dialect) -> SQLCompiler:
    """Compile a statement that sets the columns of these values. Raises TypeError."""
    compiled: SQLCompiler = sql.compile(
        dialect=dialect, column_keys=None if sql.is_select else list(values)
    )
    if "POSTCOMPILE" in compiled.string:
        raise TypeError(f"The text of this statement depends on its values: use a session\n{sql}")
    return compiled


def defaults_of(compiled: SQLCompiler) -> list[tuple[Column[Any], Any]]:
<% if cookiecutter.database == "postgresql" %>
    """Return the columns that Python gives a value to, with their defaults."""
    return [
<% else %>
    """Return the columns that Python gives a value to, with their defaults. Raises TypeError."""
    defaults = [
<% endif %>
        *((column, column.default) for column in compiled.insert_prefetch),
        *((column, column.onupdate) for column in compiled.update_prefetch),
    ]
<% if cookiecutter.database == "mysql" %>
    for column, default in defaults:
        if default is None or not (default.is_scalar or default.is_callable):
            raise TypeError(f"The server is asked for {column} before: use a session")
    return defaults
<% endif %>


<% if cookiecutter.database == "postgresql" %>
def plan_of(
    compiled: SQLCompiler,
    names: Sequence[str] | None,
    codes: Sequence[Any],
) -> Plan:
<% else %>
def plan_of(compiled: SQLCompiler, names: Sequence[str] | None) -> Plan:
<% endif %>
    """Return the plan, with the conversions that the types of parameters and columns ask for."""
    dialect = compiled.dialect
    order = compiled.positiontup or []
    defaults = defaults_of(compiled)
    # Of SQL around a column, such as a `column_expression`, the type may be another.
    processors = [
<% if cookiecutter.database == "postgresql" %>
        column.type.dialect_impl(dialect).result_processor(dialect, code)
        for column, code in zip(compiled._result_columns, codes, strict=True)
<% else %>
        # No conversion of this dialect asks what the server calls the type.
        column.type.dialect_impl(dialect).result_processor(dialect, None)
        for column in compiled._result_columns
<% endif %>
    ]
    return Plan(
        sql=compiled.string,
        parameters=[
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in order
        ],
        constants={
            name: compiled.binds[name] for name in order if not compiled.binds[name].required
        },
        defaults=defaults,
        names=names,
        processors=[
            (name, processor)
            for name, processor in zip(names or [""], processors, strict=False)
            if processor is not None
        ],
        dialect=dialect,
    )
