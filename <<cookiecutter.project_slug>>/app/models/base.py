"""What all models share."""

<% if cookiecutter.database == "mysql" %>
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Dialect, MetaData, Table, TypeDecorator, event
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.exc import ArgumentError
<% else %>
from typing import Any

from sqlalchemy import MetaData, event
from sqlalchemy.exc import ArgumentError
<% endif %>
from sqlalchemy.orm import DeclarativeBase, Mapper

# Two names of one thing.
LAZY = ("select", True)

HOW_TO_LOAD = (
    "say how it is loaded, by lazy='raise' and options in the queries, or by lazy='selectin' or"
    " 'joined'; for a backref in backref(name, lazy='raise')"
)


class Base(DeclarativeBase):
    """The declarative base."""

    # Constraints with names that follow from the columns: a migration can only drop what it can
    # name, and the server's own names differ between servers.
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


<% if cookiecutter.database == "mysql" %>
@event.listens_for(Table, "after_parent_attach")
def use_utf8mb4(table: Table, metadata: MetaData) -> None:
    """Have all tables store any text: MariaDB's own default was latin1 for long, without emoji."""
    if metadata is Base.metadata:
        table.kwargs.setdefault("mysql_charset", "utf8mb4")


<% endif %>
@event.listens_for(Base, "instrument_class", propagate=True)
def load_what_the_server_fills_in(mapper: Mapper[Any], _: type) -> None:
    """Read back what the server fills in while the row is written.

    Otherwise it would be read when it is looked at, where async code cannot wait:
<% if cookiecutter.database == "postgresql" %>
    SQLAlchemy's default is to do so after an UPDATE.
<% else %>
    SQLAlchemy's default is to do so after an UPDATE, and on MySQL, which has no
    INSERT … RETURNING, after an INSERT as well.
<% endif %>
    """
    if mapper.eager_defaults == "auto":
        mapper.eager_defaults = True


@event.listens_for(Base, "before_mapper_configured", propagate=True)
def refuse_lazy_loading(mapper: Mapper[Any], _: type) -> None:
    """Make each relationship say how it is loaded. Raises ArgumentError.

    SQLAlchemy's default loads it when it is first looked at, which async code cannot wait for.
    """
    for relationship in mapper.relationships:
        if relationship.lazy in LAZY:
            raise ArgumentError(f"{relationship}: {HOW_TO_LOAD}")
        # The other side, which SQLAlchemy makes of this.
        if other := relationship.backref:
            name, options = (other, {}) if isinstance(other, str) else other
            if options.get("lazy", "select") in LAZY:
                raise ArgumentError(f"{relationship}, backref {name}: {HOW_TO_LOAD}")
<% if cookiecutter.database == "mysql" %>


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time: aware in Python, UTC with microseconds in a column that knows no zone."""

    impl = DATETIME(fsp=6)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """Return the type of the values."""
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC. Raises ValueError for a time without a zone, which could mean any."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time needs a zone, such as datetime.now(UTC)")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say that what was stored is UTC."""
        return None if value is None else value.replace(tzinfo=UTC)
<% endif %>
