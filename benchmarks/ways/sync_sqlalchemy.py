"""Synchronous SQLAlchemy: in FastAPI's thread pool, and inside of `async def`.

The second stops all other requests while it waits for the database. Sessions are opened in the
routes, not by a dependency: its end would wait for a thread while all threads wait for a
connection, and nothing would move until the pool's time limit.
"""

from app.core.config import load_settings
from app.models import User
from app.schemas.user import UserRead
from fastapi import FastAPI, HTTPException
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

SYNC = {"postgresql+asyncpg": "postgresql+psycopg", "mysql+asyncmy": "mysql+pymysql"}

settings = load_settings()
engine = create_engine(
    settings.database_url.set(drivername=SYNC[settings.database_url.drivername]),
    pool_size=settings.pool_size,
    max_overflow=settings.max_overflow,
    pool_pre_ping=True,
)
sessions = sessionmaker(engine)

in_threads = FastAPI()
in_async_def = FastAPI()


@in_threads.get("/users/{user_id}", response_model=UserRead)
def read_user(user_id: int) -> User:
    """Read a user."""
    with sessions() as session:
        user = session.get(User, user_id)
    if user is None:
        raise HTTPException(404)
    return user


@in_async_def.get("/users/{user_id}", response_model=UserRead)
async def read_user_in_async_def(user_id: int) -> User:
    """Read a user, and let everybody else wait meanwhile."""
    return read_user(user_id)
