"""Create, read, list, change and delete ${words_of(plural)}."""

from functools import cache
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Response
from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.api.errors import CONFLICT, DATABASE_ERRORS, INVALID_BODY, NOT_FOUND
from app.core.deps import RetryRoute, SessionDep
from app.core.queries import Create, QueriesDep, Read, TransactionDep, Update
from app.models import ${Name}
from app.schemas.${name} import (
    ${Name}Create, ${Name}Id, ${Name}Page, ${Name}Read, ${Name}Update
    ${"".join(f", {field.alias}" for field in filters if field.alias != field.kind.schema)}
)

router = APIRouter(
    prefix="${path(plural)}", tags=["${words_of(plural)}"], route_class=RetryRoute, responses=DATABASE_ERRORS
)

${NAME} = select(
    ${", ".join(f"{Name}.{column}" for column in ["id", *(field.column for field in fields), "created_at"])}
)
CREATE_${NAME} = Create(${Name}Read, ${Name}, ${NAME}, given=${Name}Create)
${NAME}_BY_ID = Read(${Name}Read, ${NAME}.where(${Name}.id == bindparam("${name}_id")))
LOCKED_${NAME} = Read(
    ${Name}Read, ${NAME}.where(${Name}.id == bindparam("${name}_id")).with_for_update()
)
UPDATE_${NAME} = Update(update(${Name}).where(${Name}.id == bindparam("${name}_id")))
% if not filters:
${NAMES}_AFTER = Read(
    ${Name}Read,
    ${NAME}.where(${Name}.id > bindparam("after")).order_by(${Name}.id).limit(bindparam("limit")),
)
% else:


@cache
def ${plural}_after(*names: str) -> Read[${Name}Read]:
    """Return the statement of a page, of those alone that have given values in these columns."""
    page = ${NAME}.where(${Name}.id > bindparam("after")).order_by(${Name}.id).limit(bindparam("limit"))
    return Read(${Name}Read, page.where(*(getattr(${Name}, name) == bindparam(name) for name in names)))
% endif


# The route that is asked for most comes first: the others need not be looked at for it.
@router.get("/{${name}_id}", responses=NOT_FOUND)
async def read_${name}(queries: QueriesDep, ${name}_id: ${Name}Id) -> ${Name}Read:
    """Read ${a_words}."""
    ${name} = await queries.first(${NAME}_BY_ID, ${name}_id=${name}_id)
    if ${name} is None:
        raise HTTPException(404, "No such ${words}")
    return ${name}


@router.post("", status_code=201, responses={**INVALID_BODY, **CONFLICT})
async def create_${name}(queries: QueriesDep, data: ${Name}Create, response: Response) -> ${Name}Read:
    """Create ${a_words}."""
    ${name} = await queries.create(CREATE_${NAME}, **data.model_dump())
    response.headers["Location"] = f"${path(plural)}/{${name}.id}"
    return ${name}


@router.get("")
async def list_${plural}(
    queries: QueriesDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: ${Name}Id | None = None,
% for field in filters:
    ${field.column}: ${field.alias} | None = None,
% endfor
) -> ${Name}Page:
    """List ${words_of(plural)} by id, a page at a time: `next` of one page is `after` of the following."""
% if filters:
    given = {${", ".join(f'"{field.column}": {field.column}' for field in filters)}}
    wanted = {name: value for name, value in given.items() if value is not None}
    ${plural} = await queries.all(
        ${plural}_after(*wanted), after=after or ${"UUID(int=0)" if key == "uuid" else "0"}, limit=limit + 1, **wanted
    )
% else:
    ${plural} = await queries.all(${NAMES}_AFTER, after=after or ${"UUID(int=0)" if key == "uuid" else "0"}, limit=limit + 1)
% endif
    more = len(${plural}) > limit
    return ${Name}Page(items=${plural}[:limit], next=${plural}[limit - 1].id if more else None)


@router.patch("/{${name}_id}", responses={**INVALID_BODY, **NOT_FOUND, **CONFLICT})
async def update_${name}(transaction: TransactionDep, ${name}_id: ${Name}Id, data: ${Name}Update) -> ${Name}Read:
    """Change the fields that are sent."""
    ${name} = await transaction.first(LOCKED_${NAME}, ${name}_id=${name}_id)
    if ${name} is None:
        raise HTTPException(404, "No such ${words}")
    if changes := data.model_dump():
        await transaction.execute(UPDATE_${NAME}, ${name}_id=${name}_id, **changes)
% if all(field.kind.as_given for field in fields):
    return ${name}.model_copy(update=changes)
% else:
    # What is stored may be written otherwise than it was given, such as a time in another zone.
    return await transaction.first(${NAME}_BY_ID, ${name}_id=${name}_id) or ${name}
% endif


@router.delete("/{${name}_id}", status_code=204, responses={**NOT_FOUND, **CONFLICT})
async def delete_${name}(session: SessionDep, ${name}_id: ${Name}Id) -> None:
    """Delete ${a_words}."""
    await session.delete(await lock_${name}(session, ${name}_id))


async def lock_${name}(session: AsyncSession, ${name}_id: ${"UUID" if key == "uuid" else "int"}) -> ${Name}:
    """Return ${a_words} that nobody else changes or deletes until the transaction ends."""
    ${name} = await session.get(${Name}, ${name}_id, with_for_update=True)
    if ${name} is None:
        raise HTTPException(404, "No such ${words}")
    return ${name}
