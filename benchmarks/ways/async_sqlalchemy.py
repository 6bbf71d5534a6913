"""Asynchronous SQLAlchemy as most articles write it: an ORM session, and a ping before each use."""

from collections.abc import AsyncIterator
from typing import Annotated

from app.core.config import load_settings
from app.models import User
from app.schemas.user import UserRead
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

settings = load_settings()
engine = create_async_engine(
    settings.database_url,
    pool_size=settings.pool_size,
    max_overflow=settings.max_overflow,
    pool_pre_ping=True,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)

app = FastAPI()


async def get_session() -> AsyncIterator[AsyncSession]:
    """Open the request's session."""
    async with sessions() as session:
        yield session


@app.get("/users/{user_id}", response_model=UserRead)
async def read_user(user_id: int, session: Annotated[AsyncSession, Depends(get_session)]) -> User:
    """Read a user."""
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404)
    return user
