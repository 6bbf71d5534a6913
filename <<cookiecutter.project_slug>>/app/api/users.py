"""Create, read, list, change and delete users."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.api.errors import CONFLICT, DATABASE_ERRORS, INVALID_BODY, NOT_FOUND
from app.core.deps import RetryRoute, SessionDep
from app.models import User
from app.schemas.user import UserCreate, UserId, UserPage, UserRead, UserUpdate

router = APIRouter(
    prefix="/users", tags=["users"], route_class=RetryRoute, responses=DATABASE_ERRORS
)


@router.post("", status_code=201, response_model=UserRead, responses={**INVALID_BODY, **CONFLICT})
async def create_user(session: SessionDep, data: UserCreate, response: Response) -> User:
    """Create a user."""
    user = User(**data.model_dump())
    session.add(user)
    await session.flush()
    response.headers["Location"] = f"/users/{user.id}"
    return user


@router.get("", response_model=UserPage)
async def list_users(
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: UserId | None = None,
) -> dict[str, Any]:
    """List users by id, a page at a time: `next` of one page is `after` of the following."""
    statement = select(User).order_by(User.id).limit(limit + 1)
    if after is not None:
        statement = statement.where(User.id > after)
    users = (await session.scalars(statement)).all()
    more = len(users) > limit
    return {"items": users[:limit], "next": users[limit - 1].id if more else None}


@router.get("/{user_id}", response_model=UserRead, responses=NOT_FOUND)
async def read_user(session: SessionDep, user_id: UserId) -> User:
    """Read a user."""
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "No such user")
    return user


@router.patch(
    "/{user_id}", response_model=UserRead, responses={**INVALID_BODY, **NOT_FOUND, **CONFLICT}
)
async def update_user(session: SessionDep, user_id: UserId, data: UserUpdate) -> User:
    """Change the fields that are sent."""
    user = await lock_user(session, user_id)
    for field, value in data.model_dump().items():
        setattr(user, field, value)
    await session.flush()
    return user


@router.delete("/{user_id}", status_code=204, responses=NOT_FOUND)
async def delete_user(session: SessionDep, user_id: UserId) -> None:
    """Delete a user."""
    await session.delete(await lock_user(session, user_id))


async def lock_user(session: AsyncSession, user_id: int) -> User:
    """Return a user that nobody else changes or deletes until the transaction ends."""
    user = await session.get(User, user_id, with_for_update=True)
    if user is None:
        raise HTTPException(404, "No such user")
    return user
