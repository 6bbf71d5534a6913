"""What routes are held against: a bare FastAPI that asks the database for nothing.

It does not change with the service, so a route's share of it says the same on another machine.
"""

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.config import load_settings

engine = create_async_engine(load_settings().database_url, isolation_level="AUTOCOMMIT")
app = FastAPI()


@app.get("/")
async def ask() -> int:
    """Ask for a number."""
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT 1")))
