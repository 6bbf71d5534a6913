"""The service with two more routes, as any may have them: a report, and one that can deadlock."""

from app.core.config import load_settings
from app.core.deps import RetryRoute, SessionDep
from app.main import create_app
from app.models import User
from fastapi import APIRouter
from sqlalchemy import func, select

router = APIRouter(route_class=RetryRoute)


@router.get("/reports/names")
async def report(session: SessionDep) -> int:
    """Look at every user, of whom there are thousands."""
    names = select(func.lower(User.full_name)).group_by(func.lower(User.full_name)).subquery()
    return await session.scalar(select(func.count()).select_from(names)) or 0


@router.post("/swap/{one}/{other}")
async def swap(session: SessionDep, one: int, other: int) -> None:
    """Swap two users' names; who asks for them the other way round at that moment is in the way."""
    first = await session.get_one(User, one, with_for_update=True)
    second = await session.get_one(User, other, with_for_update=True)
    first.full_name, second.full_name = second.full_name, first.full_name


app = create_app(load_settings())
app.include_router(router)
