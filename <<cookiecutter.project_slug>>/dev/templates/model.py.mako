"""The ${words_of(plural)}."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import (
    BigInteger, Boolean, Date, DateTime, Double, Enum, ForeignKey, Identity, Integer, Numeric, String,
    Text, Uuid, func
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
<% else %>
from sqlalchemy import (
    JSON, BigInteger, Boolean, Date, Double, Enum, ForeignKey, Integer, Numeric, String, Text, Uuid,
    text
)
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, UTCDateTime
<% endif %>


class ${Name}(Base):
    """${a_words.capitalize()}."""

    __tablename__ = "${plural}"

% if key == "uuid":
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)
% else:
<% if cookiecutter.database == "postgresql" %>
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
<% else %>
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
<% endif %>
% endif
% for field in fields:
<% if cookiecutter.database == "mysql" %>
% if field.type == "str" and field.unique:
    # Compared to the letter: the server's default takes é for e, and one emoji for another.
% endif
<% endif %>
    ${field.column}: Mapped[${field.optional(field.kind.python)}] = mapped_column(${field.arguments})
% endfor
<% if cookiecutter.database == "postgresql" %>
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
<% else %>
    created_at: Mapped[datetime] = mapped_column(
        UTCDateTime, server_default=text("(utc_timestamp(6))")
    )
<% endif %>
