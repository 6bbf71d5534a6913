"""FastAPI and asyncmy with its own pool, written by hand: the ceiling."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncmy
from app.core.config import load_settings
from app.schemas.user import UserCreate, UserPage, UserRead, UserUpdate
from fastapi import FastAPI, HTTPException, Request

Row = tuple[int, str, str | None, datetime]

READ = "SELECT id, email, full_name, created_at FROM users WHERE id = %s"
LIST = "SELECT id, email, full_name, created_at FROM users WHERE id > %s ORDER BY id LIMIT %s"
LOCK = f"{READ} FOR UPDATE"
CREATE = "INSERT INTO users (email, full_name) VALUES (%s, %s)"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool."""
    settings = load_settings()
    url = settings.database_url
    async with asyncmy.create_pool(
        host=url.host or "localhost",
        port=url.port or 3306,
        unix_socket=url.query.get("unix_socket"),
        user=url.username,
        password=url.password or "",
        db=url.database,
        autocommit=True,
        minsize=settings.pool_size,
        maxsize=settings.pool_size,
    ) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


def user_of(row: Row) -> UserRead:
    """Return a row as a user; the server's times are UTC."""
    id_, email, full_name, created_at = row
    return UserRead(
        id=id_, email=email, full_name=full_name, created_at=created_at.replace(tzinfo=UTC)
    )


@app.get("/users/{user_id}")
async def read_user(request: Request, user_id: int) -> UserRead:
    """Read a user."""
    async with request.app.state.pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(READ, (user_id,))
        row = await cursor.fetchone()
    if row is None:
        raise HTTPException(404)
    return user_of(row)


@app.get("/users")
async def list_users(request: Request, limit: int = 50, after: int = 0) -> UserPage:
    """List users by id, a page at a time."""
    async with request.app.state.pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(LIST, (after, limit + 1))
        rows = await cursor.fetchall()
    users = [user_of(row) for row in rows[:limit]]
    return UserPage(items=users, next=users[-1].id if len(rows) > limit else None)


@app.post("/users", status_code=201)
async def create_user(request: Request, data: UserCreate) -> UserRead:
    """Create a user."""
    async with request.app.state.pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(CREATE, (data.email, data.full_name))
        await cursor.execute(READ, (cursor.lastrowid,))
        row = await cursor.fetchone()
    return user_of(row)


@app.patch("/users/{user_id}")
async def update_user(request: Request, user_id: int, data: UserUpdate) -> UserRead:
    """Change the fields that are sent."""
    async with request.app.state.pool.acquire() as connection:
        await connection.begin()
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(LOCK, (user_id,))
                row = await cursor.fetchone()
                if row is None:
                    raise HTTPException(404)
                changes = data.model_dump()
                if changes:
                    columns = ", ".join(f"{name} = %s" for name in changes)
                    await cursor.execute(
                        f"UPDATE users SET {columns} WHERE id = %s", (*changes.values(), user_id)
                    )
        except BaseException:
            await connection.rollback()
            raise
        await connection.commit()
    return user_of(row).model_copy(update=changes)
