"""Create, read, list, change and delete users."""

from functools import cache
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.api.errors import CONFLICT, DATABASE_ERRORS, INVALID_BODY, NOT_FOUND
from app.core.deps import RetryRoute, SessionDep
from app.core.queries import Create, QueriesDep, Read, TransactionDep, Update
from app.models import User
from app.schemas.user import Email, UserCreate, UserId, UserPage, UserRead, UserUpdate

router = APIRouter(
    prefix="/users", tags=["users"], route_class=RetryRoute, responses=DATABASE_ERRORS
)

USER = select(User.id, User.email, User.full_name, User.created_at)
CREATE_USER = Create(UserRead, User, USER, given=UserCreate)
USER_BY_ID = Read(UserRead, USER.where(User.id == bindparam("user_id")))
LOCKED_USER = Read(UserRead, USER.where(User.id == bindparam("user_id")).with_for_update())
UPDATE_USER = Update(update(User).where(User.id == bindparam("user_id")))


@cache
def users_after(*names: str) -> Read[UserRead]:
    """Return the statement of a page, of those alone that have given values in these columns."""
    page = USER.where(User.id > bindparam("after")).order_by(User.id).limit(bindparam("limit"))
    return Read(UserRead, page.where(*(getattr(User, name) == bindparam(name) for name in names)))


# The route that is asked for most comes first: the others need not be looked at for it.
@router.get("/{user_id}", responses=NOT_FOUND)
async def read_user(queries: QueriesDep, user_id: UserId) -> UserRead:
    """Read a user."""
    user = await queries.first(USER_BY_ID, user_id=user_id)
    if user is None:
        raise HTTPException(404, "No such user")
    return user


@router.post("", status_code=201, responses={**INVALID_BODY, **CONFLICT})
async def create_user(queries: QueriesDep, data: UserCreate, response: Response) -> UserRead:
    """Create a user."""
    user = await queries.create(CREATE_USER, **data.model_dump())
    response.headers["Location"] = f"/users/{user.id}"
    return user


@router.get("")
async def list_users(
    queries: QueriesDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: UserId | None = None,
    email: Email | None = None,
) -> UserPage:
    """List users by id, a page at a time: `next` of one page is `after` of the following."""
    given = {"email": email}
    wanted = {name: value for name, value in given.items() if value is not None}
    users = await queries.all(users_after(*wanted), after=after or 0, limit=limit + 1, **wanted)
    more = len(users) > limit
    return UserPage(items=users[:limit], next=users[limit - 1].id if more else None)


@router.patch("/{user_id}", responses={**INVALID_BODY, **NOT_FOUND, **CONFLICT})
async def update_user(transaction: TransactionDep, user_id: UserId, data: UserUpdate) -> UserRead:
    """Change the fields that are sent."""
    user = await transaction.first(LOCKED_USER, user_id=user_id)
    if user is None:
        raise HTTPException(404, "No such user")
    if changes := data.model_dump():
        await transaction.execute(UPDATE_USER, user_id=user_id, **changes)
    return user.model_copy(update=changes)


@router.delete("/{user_id}", status_code=204, responses={**NOT_FOUND, **CONFLICT})
async def delete_user(session: SessionDep, user_id: UserId) -> None:
    """Delete a user."""
    await session.delete(await lock_user(session, user_id))


async def lock_user(session: AsyncSession, user_id: int) -> User:
    """Return a user that nobody else changes or deletes until the transaction ends."""
    user = await session.get(User, user_id, with_for_update=True)
    if user is None:
        raise HTTPException(404, "No such user")
    return user
