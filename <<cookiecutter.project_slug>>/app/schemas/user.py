"""Users, as they go in and out over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import MISSING, BaseModel, ConfigDict, Field, StringConstraints

# Up to the largest BIGINT: beyond it the driver raises instead of finding nothing.
UserId = Annotated[int, Field(ge=1, lt=2**63)]

<% if cookiecutter.database == "postgresql" %>
# As long as the columns, and without NUL, which PostgreSQL cannot store in text.
<% else %>
# As long as the columns, and without NUL, which other programs cut texts at.
<% endif %>
# Control characters and blanks by number: what `\s` means differs between languages.
Email = Annotated[
    str, StringConstraints(max_length=320, pattern=r"^[^\x00-\x20\x7f@]+@[^\x00-\x20\x7f@]+$")
]
FullName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


class UserCreate(BaseModel):
    """A user to create."""

    email: Email
    full_name: FullName | None = None


class UserUpdate(BaseModel):
    """A user to change: only the fields that are sent."""

    email: Email | MISSING = MISSING
    full_name: FullName | MISSING | None = MISSING


class UserRead(BaseModel):
    """A user as stored."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    email: str
    full_name: str | None
    created_at: datetime


class UserPage(BaseModel):
    """Some users by id, and the cursor to ask for those after them, null at the end."""

    items: list[UserRead]
    next: int | None
