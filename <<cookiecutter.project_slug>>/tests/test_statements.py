"""Single statements do what a session does, or say what to write when they are defined.

The models are of these tests' own: nothing here rests on the example.
"""

import gc
import itertools
import logging
import random
import uuid
import weakref
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, create_model
from sqlalchemy import (
<% if cookiecutter.database == "postgresql" %>
    ARRAY,
<% endif %>
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    String,
    Uuid,
<% if cookiecutter.database == "postgresql" %>
    any_,
<% endif %>
    bindparam,
    event,
    func,
    inspect,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates

from app.core import checks
from app.core.db import Database, OneTaskSession
from app.core.queries import Create, Queries, Read, Update

COUNT = 60


class Apart(DeclarativeBase):
    """A base whose tables no migration knows."""


def double(context: Any) -> int:
    """Be a default that looks at the other values."""
    return int(context.get_current_parameters()["number"] or 0) * 2


class Note(Apart):
    """A row with each kind of default."""

    __tablename__ = "notes"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    number: Mapped[int | None] = mapped_column("number_of_it")
    plain: Mapped[str | None] = mapped_column(String(20))
    constant: Mapped[str | None] = mapped_column(String(20), default="constant")
    called: Mapped[str | None] = mapped_column(String(20), insert_default=lambda: "called")
    doubled: Mapped[int | None] = mapped_column(default=lambda context: double_of(context))
    computed: Mapped[int | None] = mapped_column(default=func.length("four"))
    served: Mapped[str | None] = mapped_column(String(20), server_default="served")
    document: Mapped[Any | None] = mapped_column(JSON)
    changed: Mapped[str | None] = mapped_column(String(20), onupdate="changed")
    changes: Mapped[int | None] = mapped_column(onupdate=lambda: 7)
    length: Mapped[int | None] = mapped_column(onupdate=func.length("four"))
