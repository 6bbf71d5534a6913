"""The application: `uvicorn app.main:app`."""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.api import errors, health, users
from app.core.config import Settings, load_settings
from app.core.db import Database
from app.core.shutdown import draining_on_sigterm


def create_app(settings: Settings) -> FastAPI:
    """Build the application. Connections are opened in its lifespan, not here."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(
            settings.database_url,
            pool_size=settings.pool_size,
            max_overflow=settings.max_overflow,
            pool_timeout=settings.pool_timeout,
            pool_recycle=settings.pool_recycle,
            statement_timeout=settings.statement_timeout,
            echo=settings.echo_sql,
        )
        async with database:
            app.state.database = database
            workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
            await database.warn_if_too_many(workers * settings.connections)
            # What was loaded so far stays: the garbage collector need not look at it again and
            # again, which halts all requests for milliseconds.
            gc.collect()
            gc.freeze()
            with draining_on_sigterm(app):
                yield

    app = FastAPI(
        title=<< cookiecutter.__project_name_py >>,
        lifespan=lifespan,
    )
    errors.add_error_handlers(app)
    app.include_router(health.router)
    app.include_router(users.router)
    return app


app = create_app(load_settings())
