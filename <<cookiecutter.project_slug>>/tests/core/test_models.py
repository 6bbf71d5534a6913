"""What the base gives, no model loses by accident.

By models that derive from it and are known to no migration.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import ForeignKey, Index, MetaData, String, func
<% else %>
from sqlalchemy import Column, ForeignKey, Index, MetaData, String, Table, func
<% endif %>
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, backref, mapped_column, registry, relationship

from app.core.db import Database
from app.models.base import Base
from tests.core.conftest import tables_of
from tests.process import PROJECT


def make_base() -> Any:
    """Return a base that does as `Base` does, with tables and models of its own."""

    class Apart(Base):
        __abstract__ = True
        metadata = MetaData(naming_convention=Base.metadata.naming_convention)
        _sa_registry = registry(metadata=metadata)

    return Apart


@pytest.fixture
def apart() -> Iterator[Any]:
    """Return such a base, and forget its models, which would stop others when they are wrong."""
    base = make_base()
    yield base
    base._sa_registry.dispose()


async def test_what_the_server_fills_in_is_there_after_a_change(
    apart: Any, database: Database
) -> None:
    class Note(apart):  # type: ignore[misc]
        __tablename__ = "_test_notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(String(20))
        made_at: Mapped[datetime] = mapped_column(server_default=func.now())
        changed_at: Mapped[datetime | None] = mapped_column(onupdate=func.now())
        version: Mapped[int] = mapped_column(default=1)
        __mapper_args__ = {"version_id_col": version}
        __table_args__ = (Index(None, "text"),)

    async with tables_of(apart.metadata, database), database.session() as session:
        note = Note(text="one")
        session.add(note)
        await session.flush()
        assert note.made_at
        assert note.changed_at is None
        note.text = "two"
        await session.flush()
        # Looked at where nothing can wait for it.
        assert note.changed_at is not None
        assert note.version == 2


def test_a_model_may_say_that_it_reads_nothing_back(apart: Any) -> None:
    class Note(apart):  # type: ignore[misc]
        __tablename__ = "_test_notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        __mapper_args__ = {"eager_defaults": False}

    assert Note.__mapper__.eager_defaults is False


LAZY: dict[str, Callable[[], Any]] = {
    "Child.parent": lambda: relationship("Parent"),
    "Child.parent, backref children": lambda: relationship(
        "Parent", lazy="raise", backref="children"
    ),
    "Child.parent, backref kids": lambda: relationship(
        "Parent", lazy="raise", backref=backref("kids", passive_deletes=True)
    ),
}


@pytest.mark.parametrize("parent_first", [True, False])
@pytest.mark.parametrize("name", LAZY)
def test_a_relationship_must_say_how_it_is_loaded(
    apart: Any, name: str, parent_first: bool
) -> None:
    def make_parent() -> type:
        class Parent(apart):  # type: ignore[misc]
            __tablename__ = "_test_parents"
            id: Mapped[int] = mapped_column(primary_key=True)

        return Parent

    def make_child() -> type:
        class Child(apart):  # type: ignore[misc]
            __tablename__ = "_test_children"
            id: Mapped[int] = mapped_column(primary_key=True)
            parent_id: Mapped[int] = mapped_column(ForeignKey("_test_parents.id"))
            parent = LAZY[name]()

        return Child

    order = (make_parent, make_child) if parent_first else (make_child, make_parent)
    models = [make() for make in order]
    # As often as it is tried.
    for _ in range(2):
        with pytest.raises(SQLAlchemyError, match=f"{re.escape(name)}: say how it is loaded"):
            apart._sa_registry.configure()
    # Kept until here: SQLAlchemy itself would let go of them.
    assert len(models) == 2


def test_the_models_are_looked_at_when_they_are_imported() -> None:
    code = (
        "from unittest.mock import patch; from sqlalchemy.orm import registry\n"
        "with patch.object(registry, 'configure') as configure: import app.models\n"
        "configure.assert_called_once_with()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


@pytest.mark.parametrize("lazy", ["raise", "selectin", "joined"])
def test_a_relationship_that_says_how_it_is_loaded_is_taken(apart: Any, lazy: Any) -> None:
    class Parent(apart):  # type: ignore[misc]
        __tablename__ = "_test_parents"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Child(apart):  # type: ignore[misc]
        __tablename__ = "_test_children"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int] = mapped_column(ForeignKey("_test_parents.id"))
        parent = relationship(Parent, lazy=lazy, backref=backref("children", lazy="raise"))

    apart._sa_registry.configure()
    assert Parent.children.property.lazy == "raise"
<% if cookiecutter.database == "mysql" %>


def test_every_table_stores_any_text() -> None:
    """Also one with arguments of its own, and one that belongs to no model."""
    tables = [
        Table("apart", Base.metadata, Column("id", String(20)), Index(None, "id")),
        Table("beside", Base.metadata, Column("id", String(20)), mysql_engine="InnoDB"),
        Table("latin", Base.metadata, Column("id", String(20)), mysql_charset="latin1"),
    ]
    try:
        charsets = [table.kwargs["mysql_charset"] for table in tables]
    finally:
        for table in tables:
            Base.metadata.remove(table)
    assert charsets == ["utf8mb4", "utf8mb4", "latin1"]
<% endif %>
