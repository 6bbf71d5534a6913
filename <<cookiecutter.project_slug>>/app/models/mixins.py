"""Columns that many tables have: `class Order(UUIDKey, Timestamps, Base)`."""

import time
import uuid
from datetime import datetime
from secrets import randbits

<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import DateTime, Uuid, func
from sqlalchemy.orm import Mapped, mapped_column
<% else %>
from sqlalchemy import Uuid, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import UTCDateTime
<% endif %>

last = 0


def uuid7() -> uuid.UUID:
    """Return a UUID that begins with the time (version 7 of RFC 9562).

    Each is greater than those that this process has made before, so an index grows at its end.
    """
    global last
    # Of a millisecond since 1970, 4096 parts: 48 and 12 bits.
    last = max(last + 1, time.time_ns() * 4096 // 1_000_000)
    milliseconds, parts = divmod(last, 4096)
    version, variant = 7, 2
    return uuid.UUID(
        int=milliseconds * 2**80 + version * 2**76 + parts * 2**64 + variant * 2**62 + randbits(62)
    )


class UUIDKey:
    """A primary key that tells nobody how many rows there are."""

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid7, sort_order=-1)


class Timestamps:
    """When a row was created and last changed, by the server's clock."""

<% if cookiecutter.database == "postgresql" %>
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), sort_order=1
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now(), sort_order=1
    )
<% else %>
    created_at: Mapped[datetime] = mapped_column(
        UTCDateTime, server_default=text("(utc_timestamp(6))"), sort_order=1
    )
    updated_at: Mapped[datetime] = mapped_column(
        UTCDateTime,
        server_default=text("(utc_timestamp(6))"),
        onupdate=text("utc_timestamp(6)"),
        sort_order=1,
    )
<% endif %>
