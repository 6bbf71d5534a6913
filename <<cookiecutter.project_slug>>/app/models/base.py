"""What all models share."""

<% if cookiecutter.database == "mysql" %>
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Dialect, MetaData, TypeDecorator, event
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.exc import ArgumentError
<% else %>
from typing import Any

from sqlalchemy import MetaData, event
from sqlalchemy.exc import ArgumentError
<% endif %>
from sqlalchemy.orm import DeclarativeBase, Mapper


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

    # MySQL has no INSERT … RETURNING: what the server fills in is read back while the row is
    # written. Otherwise it would be read later, at a place that cannot wait, and fail there.
    __mapper_args__ = {"eager_defaults": True}

    # Whatever the database's own default is: MariaDB's was latin1 for long, without emoji.
    __table_args__ = {"mysql_charset": "utf8mb4"}
<% endif %>


@event.listens_for(Base, "mapper_configured", propagate=True)
def refuse_lazy_loading(mapper: Mapper[Any], _: type) -> None:
    """Make each relationship say how it is loaded. Raises ArgumentError.

    SQLAlchemy's default loads it when it is first looked at, which async code cannot wait for.
    """
    for relationship in mapper.relationships:
        if relationship.lazy == "select":
            raise ArgumentError(
                f"{relationship}: say how it is loaded, by lazy='raise' and options in the"
                " queries, or by lazy='selectin' or 'joined'"
            )
<% if cookiecutter.database == "mysql" %>


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time: aware in Python, UTC with microseconds in a column that knows no zone."""

    impl = DATETIME(fsp=6)
    cache_ok = True

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
