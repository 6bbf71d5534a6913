"""The users."""

from datetime import datetime

<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import BigInteger, DateTime, Identity, String, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
<% else %>
from sqlalchemy import BigInteger, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, UTCDateTime
<% endif %>


class User(Base):
    """A person, known by an e-mail address."""

    __tablename__ = "users"

<% if cookiecutter.database == "postgresql" %>
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
<% else %>
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
<% endif %>
<% if cookiecutter.database == "postgresql" %>
    email: Mapped[str] = mapped_column(String(320), unique=True)
<% else %>
    # Compared to the letter: the server's default takes é for e, and one emoji for another.
    email: Mapped[str] = mapped_column(String(320, collation="utf8mb4_bin"), unique=True)
<% endif %>
    full_name: Mapped[str | None] = mapped_column(String(200))
<% if cookiecutter.database == "postgresql" %>
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
<% else %>
    created_at: Mapped[datetime] = mapped_column(
        UTCDateTime, server_default=text("(utc_timestamp(6))")
    )
<% endif %>
