"""${words_of(plural).capitalize()}, as they go in and out over HTTP."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import (
    MISSING, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints
)

% if key == "uuid":
${Name}Id = UUID
% else:
# Up to the largest BIGINT: beyond it the driver raises instead of finding nothing.
${Name}Id = Annotated[int, Field(ge=1, lt=2**63)]
% endif

% if any(field.type in ("str", "text") for field in fields):
<% if cookiecutter.database == "postgresql" %>
# As long as the columns, and without NUL, which PostgreSQL cannot store in text.
<% else %>
# As long as the columns, and without NUL, which other programs cut texts at.
<% endif %>
% endif
% for field in fields:
% if field.alias != field.kind.schema:
${field.alias} = ${field.kind.schema}
% endif
% endfor


class ${Name}Create(BaseModel):
    """${a_words.capitalize()} to create."""

% for field in fields:
    ${field.column}: ${field.optional(field.alias)}${" = None" if field.nullable else ""}
% endfor


class ${Name}Update(BaseModel):
    """${a_words.capitalize()} to change: only the fields that are sent."""

% for field in fields:
    ${field.column}: ${field.optional(field.alias + " | MISSING")} = MISSING
% endfor


class ${Name}Read(BaseModel):
    """${a_words.capitalize()} as stored."""

    model_config = ConfigDict(from_attributes=True)

    id: ${"UUID" if key == "uuid" else "int"}
% for field in fields:
    ${field.column}: ${field.optional(field.alias if field.type in ("enum", "json") else field.kind.python)}
% endfor
    created_at: datetime


class ${Name}Page(BaseModel):
    """Some ${words_of(plural)} by id, and the cursor to ask for those after them, null at the end."""

    items: list[${Name}Read]
    next: ${"UUID" if key == "uuid" else "int"} | None
