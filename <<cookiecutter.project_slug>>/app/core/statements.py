"""Single statements as they are defined, once, at the top of a module: `queries.py` runs them.

A statement does exactly what a session would have done. Where it cannot, its definition raises
TypeError, which says what to write instead; what shows only in use, its first use refuses.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter
from sqlalchemy import Column, Select, SelectBase, insert
from sqlalchemy import Update as SQLUpdate
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, class_mapper
from sqlalchemy.sql import ClauseElement, visitors

from .checks import (
    mapper_of,
    names_of,
    one_of,
    parameters_of,
    refuse_foreign_columns,
    refuse_names,
    refuse_options,
    warn_if_made_too_often,
)

Model = TypeVar("Model")

# Where listeners are from that are about sessions alone. So are SQLAlchemy's own, such as those of a
# `composite()`, and with `once=True`, which stay there after their call.
OF_SESSIONS = {f"{__package__}.db", f"{__package__}.retries"}


class Statement(Generic[Model]):
    """What is run, and what each of its rows becomes.

    `ignore_events=True` allows it where somebody listens to what sessions do (`do_orm_execute`,
    `after_begin`, `before_insert` and their like): such listeners do not see it.
    """

    # Events of sessions whose listeners may change what is done.
    events: tuple[str, ...] = ("do_orm_execute", "after_begin")

    def __init__(self, statement: Any, names: Sequence[str] | None, ignore_events: bool) -> None:
        refuse_options(statement)
        self.statement = statement
        self.names = names
        self.ignore_events = ignore_events
        parameters = list(parameters_of(statement))
        self.parameters = {bind.key for bind in parameters}
        self.required = {bind.key for bind in parameters if bind.required}
        warn_if_made_too_often()

    def prepare(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values by the names of the parameters. Raises TypeError for wrong names."""
        if values.keys() != self.required:
            refuse_names(values, self.required, self.parameters)
        return values


class Read(Statement[Model]):
    """A SELECT of columns, each row of which becomes a `model`. Values are `bindparam("name")`.

    `model` is a Pydantic model (or a dataclass, a TypedDict) whose fields have the columns' names;
    or of a single column the type itself: `Read(int, select(func.count()).select_from(User))`.
    """

    def __init__(
        self, model: type[Model], statement: SelectBase, *, ignore_events: bool = False
    ) -> None:
        """Raises TypeError for what cannot be run as it would be by a session."""
        self.rows = TypeAdapter(list[model])  # type: ignore[valid-type]
        super().__init__(statement, names_of(statement, model), ignore_events)
        elements = list(visitors.iterate(statement))
        # A lock ends with its transaction: see `Queries`.
        self.locks = any(getattr(each, "_for_update_arg", None) is not None for each in elements)
<% if cookiecutter.database == "postgresql" %>
        # So does an `insert(…).returning(…).cte()`, whose rows are read.
        self.writes = any(getattr(each, "is_dml", False) for each in elements)
<% endif %>


class Write(Statement[Model]):
    """A change of one table."""

    events: tuple[str, ...] = ("do_orm_execute", "after_begin", "before_commit", "after_commit")

    def __init__(
        self,
        statement: Any,
        table: type[DeclarativeBase],
        names: Sequence[str] | None,
        ignore_events: bool,
    ) -> None:
        self.mapper = mapper_of(table)
        # By the names of the model's attributes, as `table(name=…)` takes them.
        self.columns = {
            name: column
            for name, column in self.mapper.columns.items()
            if isinstance(column, Column)
        }
        super().__init__(statement, names, ignore_events)

    def refuse_sql(self, values: Mapping[str, Any]) -> None:
        """Raise TypeError for what a session would have written into the statement's text."""
        for name, value in values.items():
            if isinstance(value, ClauseElement):
                raise TypeError(f"The value of {name} is SQL, which needs a session: {value}")


class Create(Write[Model]):
    """An INSERT of one row, of which `read` selects what becomes the `model`.

    Its values are those that `table(…)` takes, and what is not given gets its default likewise.
    `given` is the schema that they come from, if there is one: its fields are checked at once.
    """

    events = (
        *("before_attach", "after_attach", "transient_to_pending", "pending_to_persistent"),
        *("after_begin", "before_flush", "after_flush", "after_flush_postexec"),
        *("before_commit", "after_commit"),
    )

    def __init__(
        self,
        model: type[Model],
        table: type[DeclarativeBase],
        read: Select[*tuple[Any, ...]],
        *,
        given: type[BaseModel] | None = None,
        ignore_events: bool = False,
    ) -> None:
        """Raises TypeError for what cannot be done as a session does it."""
        self.rows = TypeAdapter(list[model])  # type: ignore[valid-type]
        self.read = read
        refuse_options(read)
        super().__init__(insert(table), table, names_of(read, model), ignore_events)
        if given is not None:
            refuse_names(given.model_fields, set(), self.columns.keys())
        refuse_foreign_columns(read, self.mapper)
        # A session leaves out a None for which there is a default, and writes NULL without one.
        self._keys = {
            name: (column.key, column.type.should_evaluate_none)
            for name, column in self.columns.items()
        }
        self._nulls = [
            column.key
            for column in self.columns.values()
            if not (column.primary_key or column.default or column.server_default)
            and not column.type.should_evaluate_none
        ]

    def prepare(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values by the keys of the table's columns, as a session would send them."""
        refuse_names(values, set(), self.columns.keys())
        self.refuse_sql(values)
        prepared = {}
        for name, value in values.items():
            key, keeps_none = self._keys[name]
            if value is not None or keeps_none:
                prepared[key] = value
        for key in self._nulls:
            prepared.setdefault(key, None)
        return prepared


class Update(Write[int]):
    """An UPDATE, as in `Update(update(User).where(User.id == bindparam("user_id")))`.

    Sets the columns whose values are given with it, and those with an `onupdate`.
    """

    def __init__(self, statement: SQLUpdate, *, ignore_events: bool = False) -> None:
        """Raises TypeError for what cannot be done as a session does it."""
        if statement.exported_columns:
            raise TypeError("An Update tells how many rows it changed: leave out `.returning()`")
        table = statement.entity_description.get("entity")
        if table is None:
            raise TypeError("Update a model, as in `update(User)`, rather than a table")
        super().__init__(statement, table, None, ignore_events)
        keys = {column.key for column in self.columns.values()}
        if both := self.parameters & (self.columns.keys() | keys):
            raise TypeError(
                f"{one_of(both)} names a column to set and a parameter: call the parameter"
                f' otherwise, such as `bindparam("the_{min(both)}")`'
            )

    def prepare(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values by the names of parameters and columns. Raises TypeError."""
        refuse_names(values, self.required, self.parameters | self.columns.keys())
        self.refuse_sql(values)
        prepared = {
            name if name in self.parameters else self.columns[name].key: value
            for name, value in values.items()
        }
        if prepared.keys() <= self.parameters and not self.statement._values:
            raise TypeError(f"Nothing to set: give one of {one_of(self.columns)}")
        return prepared


def refuse_listeners(statement: Statement[Any], sessions: async_sessionmaker[Any]) -> None:
    """Raise TypeError where a session would do more, since somebody listens to what it does."""
    if statement.ignore_events:
        return
    session: Any = sessions.class_.sync_session_class()
    heard = [(name, getattr(session.dispatch, name)) for name in statement.events]
    if isinstance(statement, Create):
        # Some begin to listen when the models are configured.
        mapper = class_mapper(statement.mapper.class_)
        objects = mapper.class_manager
        heard += [("before_insert", mapper.dispatch.before_insert)]
        heard += [("after_insert", mapper.dispatch.after_insert), ("init", objects.dispatch.init)]
        heard += [("set", objects[name].dispatch.set) for name in statement.columns]
    for name, listeners in heard:
        for listener in listeners:
            if listener.__module__ == "sqlalchemy.orm.events":
                # What calls the listener itself, with what that wants to know.
                names = listener.__code__.co_freevars
                listener = listener.__closure__[names.index("fn")].cell_contents
            module = listener.__module__
            if module not in OF_SESSIONS and not module.startswith("sqlalchemy."):
                called = getattr(listener, "__qualname__", listener)
                raise TypeError(
                    f"{called} listens to {name}, which only sessions call: use a session; or write"
                    " into the statement what it adds, and `ignore_events=True`"
                )
