"""The application: `uvicorn app.main:app`."""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy import URL

<% if cookiecutter.vector_search == "yes" %>
from app.api import documents, errors, health, users
<% else %>
from app.api import errors, health, users
<% endif %>
from app.core.config import Settings, load_settings
from app.core.db import Database
from app.core.queries import Queries
from app.core.shutdown import draining_on_sigterm


def create_app(settings: Settings) -> FastAPI:
    """Build the application. Connections are opened in its lifespan, not here."""

    def connect_to(url: URL) -> Database:
        return Database(
            url,
            pool_size=settings.pool_size,
            max_overflow=settings.max_overflow,
            pool_timeout=settings.pool_timeout,
            pool_recycle=settings.pool_recycle,
            statement_timeout=settings.statement_timeout,
            echo=settings.echo_sql,
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = connect_to(settings.database_url)
        read_url = settings.database_read_url
        replica = connect_to(read_url) if read_url else database
        async with database, replica:
            app.state.database = database
            app.state.queries = Queries(database, replica)
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
    app.include_router(users.router)
<% if cookiecutter.vector_search == "yes" %>
    app.include_router(documents.router)
<% endif %>
    app.include_router(health.router)
    return app


app = create_app(load_settings())
