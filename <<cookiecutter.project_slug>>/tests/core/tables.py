"""The tables of these tests: no model, migration or route of the service knows them.

Their names begin with `_test_`, which no table of the service should.
"""

from datetime import datetime
from typing import Annotated

from pydantic import MISSING, BaseModel, ConfigDict, Field, StringConstraints
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import BigInteger, DateTime, Identity, MetaData, String, func
<% else %>
from sqlalchemy import BigInteger, MetaData, String, text
<% endif %>
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

<% if cookiecutter.database == "postgresql" %>
from app.models.base import Base
<% else %>
from app.models.base import Base, UTCDateTime
<% endif %>


class Apart(DeclarativeBase):
    """A base whose tables no migration knows."""

    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
<% if cookiecutter.database == "mysql" %>
    __table_args__ = {"mysql_charset": "utf8mb4"}
<% endif %>
    __mapper_args__ = {"eager_defaults": True}


class Person(Apart):
    """Somebody, known by an e-mail address."""

    __tablename__ = "_test_people"

<% if cookiecutter.database == "postgresql" %>
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    email: Mapped[str] = mapped_column(String(320), unique=True)
    full_name: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
<% else %>
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(String(320, collation="utf8mb4_bin"), unique=True)
    full_name: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(
        UTCDateTime, server_default=text("(utc_timestamp(6))")
    )
<% endif %>


PersonId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


class PersonCreate(BaseModel):
    """A person to create."""

    email: Text
    full_name: Text | None = None


class PersonUpdate(BaseModel):
    """A person to change: only the fields that are sent."""

    email: Text | MISSING = MISSING
    full_name: Text | MISSING | None = MISSING


class PersonRead(BaseModel):
    """A person as stored."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    email: str
    full_name: str | None
    created_at: datetime
