"""The application with reads by sessions: `more_routes:app`."""

from app.core.config import load_settings
from app.core.deps import RetryRoute, SessionDep
from app.main import create_app
from app.models import User
from app.schemas.user import UserRead
from fastapi import APIRouter

once, again = APIRouter(prefix="/once"), APIRouter(prefix="/again", route_class=RetryRoute)


@once.get("/users/{user_id}")
@again.get("/users/{user_id}")
async def get_user(session: SessionDep, user_id: int) -> UserRead:
    """Return a user by a session: on a route that is run once, or again after a conflict."""
    return UserRead.model_validate(await session.get_one(User, user_id))


@again.post("/users/{user_id}")
async def change_user(session: SessionDep, user_id: int, full_name: str) -> UserRead:
    """Change a user by a session."""
    user = await session.get_one(User, user_id, with_for_update=True)
    user.full_name = full_name
    await session.flush()
    return UserRead.model_validate(user)


app = create_app(load_settings())
for router in (once, again):
    app.include_router(router)
