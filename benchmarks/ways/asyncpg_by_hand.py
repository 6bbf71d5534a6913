"""FastAPI and asyncpg with its own pool, written by hand: the ceiling."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from app.core.config import load_settings
from app.schemas.user import UserCreate, UserPage, UserRead, UserUpdate
from fastapi import FastAPI, HTTPException, Request

READ = "SELECT id, email, full_name, created_at FROM users WHERE id = $1"
LIST = "SELECT id, email, full_name, created_at FROM users WHERE id > $1 ORDER BY id LIMIT $2"
CREATE = (
    "INSERT INTO users (email, full_name) VALUES ($1, $2)"
    " RETURNING id, email, full_name, created_at"
)
LOCK = f"{READ} FOR UPDATE"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool."""
    settings = load_settings()
    url = settings.database_url.set(drivername="postgresql")
    async with asyncpg.create_pool(
        url.render_as_string(hide_password=False),
        min_size=settings.pool_size,
        max_size=settings.pool_size,
    ) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/users/{user_id}")
async def read_user(request: Request, user_id: int) -> UserRead:
    """Read a user."""
    async with request.app.state.pool.acquire() as connection:
        row = await connection.fetchrow(READ, user_id)
    if row is None:
        raise HTTPException(404)
    return UserRead(**row)


@app.get("/users")
async def list_users(request: Request, limit: int = 50, after: int = 0) -> UserPage:
    """List users by id, a page at a time."""
    async with request.app.state.pool.acquire() as connection:
        rows = await connection.fetch(LIST, after, limit + 1)
    users = [UserRead(**row) for row in rows[:limit]]
    return UserPage(items=users, next=users[-1].id if len(rows) > limit else None)


@app.post("/users", status_code=201)
async def create_user(request: Request, data: UserCreate) -> UserRead:
    """Create a user."""
    async with request.app.state.pool.acquire() as connection:
        row = await connection.fetchrow(CREATE, data.email, data.full_name)
    return UserRead(**row)


@app.patch("/users/{user_id}")
async def update_user(request: Request, user_id: int, data: UserUpdate) -> UserRead:
    """Change the fields that are sent."""
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(LOCK, user_id)
        if row is None:
            raise HTTPException(404)
        changes = data.model_dump()
        if changes:
            columns = ", ".join(f"{name} = ${n}" for n, name in enumerate(changes, 2))
            await connection.execute(
                f"UPDATE users SET {columns} WHERE id = $1", user_id, *changes.values()
            )
    return UserRead(**{**row, **changes})
