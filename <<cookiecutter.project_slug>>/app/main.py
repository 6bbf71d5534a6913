"""The application: `uvicorn app.main:app`."""

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app.api import <% if cookiecutter.vector_search == "yes" %>documents, <% endif %>errors, health, <% if cookiecutter.sync_bridge == "yes" %>reports, <% endif %>users
from app.core.config import Settings, load_settings
from app.core.db import Database
from app.core.logs import RequestIds, configure_logging
from app.core.prometheus import serving_metrics
from app.core.queries import Queries
from app.core.replica import Replica
from app.core.shutdown import draining_on_sigterm
<% if cookiecutter.sync_bridge == "yes" %>
from app.core.sync import SyncDatabase
<% endif %>
from app.core.telemetry import watch


def create_app(settings: Settings) -> FastAPI:
    """Build the application. Connections are opened in its lifespan, not here."""

    def connect_to(name: str<% if cookiecutter.sync_bridge == "yes" %>, pool_size: int<% endif %>) -> Database:
        database = Database(
            getattr(settings, name),
            pool_size=<% if cookiecutter.sync_bridge == "no" %>settings.<% endif %>pool_size,
            max_overflow=settings.max_overflow,
            pool_timeout=settings.pool_timeout,
            pool_recycle=settings.pool_recycle,
            statement_timeout=settings.statement_timeout,
            echo=settings.echo_sql,
            login=settings.login(name),
        )
        pool = "primary" if name == "database_url" else "replica"
        engine, slots = database.engine.sync_engine, database.pool.slots
        database.on_statement = watch(pool, engine, slots, settings.slow_statement)
        return database

    @asynccontextmanager
    async def databases(app: FastAPI) -> AsyncIterator[None]:
<% if cookiecutter.sync_bridge == "yes" %>
        # Synchronous code has its connections out of the same number.
        database = connect_to("database_url", settings.pool_size - settings.sync_pool_size)
        replica = None
        if settings.database_read_url is not None:
            replica = Replica(database, connect_to("database_read_url", settings.pool_size))
        sync_database = SyncDatabase(
            settings.database_url,
            pool_size=settings.sync_pool_size,
            pool_timeout=settings.pool_timeout,
            pool_recycle=settings.pool_recycle,
            statement_timeout=settings.statement_timeout,
            echo=settings.echo_sql,
            login=settings.login("database_url"),
        )
        async with database, replica or nullcontext(), sync_database:
            app.state.sync_database = sync_database
            sync_database.after_commit = database.after_commit
            watch("sync", sync_database.engine, sync_database.slots, settings.slow_statement)
<% else %>
        database = connect_to("database_url")
        replica = None
        if settings.database_read_url is not None:
            replica = Replica(database, connect_to("database_read_url"))
        async with database, replica or nullcontext():
<% endif %>
            app.state.database = database
            app.state.queries = Queries(database, replica)
            most = int(os.environ.get("WEB_CONCURRENCY", "1")) * settings.connections
            await database.warn_if_too_many(most)
            if replica is not None:
                await replica.database.warn_if_too_many(most, "DATABASE_READ_URL")
            yield

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with serving_metrics(settings.metrics_port):
            async with databases(app):
                # What was loaded so far stays, and what requests make is gone with them, but for
                # few cycles: the garbage collector need not look at all of it again and again,
                # which takes a tenth of the time and halts all requests for milliseconds.
                gc.collect()
                gc.freeze()
                gc.set_threshold(50_000)
                with draining_on_sigterm(app):
                    yield

    asked = any(name.startswith("OTEL_") for name in os.environ)
    observed = asked or settings.metrics_port is not None
    # It is there after `uv sync --group telemetry` only.
    if observed and find_spec("opentelemetry.sdk"):
        from app.core.aggregation import aggregate_metrics

        aggregate_metrics(settings.metrics_port)
    app = FastAPI(
        telemetry={
            "auto_configure": True,
            # Else each request would look whether an SDK is there. Who sets one up by hand: True.
            "tracing": observed,
            "metrics": observed,
            # Spans inside of a request cost half of the requests a second.
            "operation_spans": False,
            # They may hold people's data.
            "logs": False,
        },
        title=<< cookiecutter.__project_name_py >>,
        lifespan=lifespan,
        # The names of a generated client's methods are those of the functions.
        generate_unique_id_function=lambda route: route.name,
    )
    errors.add_error_handlers(app, settings.max_body_size)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    app.add_middleware(RequestIds)
    app.include_router(users.router)
<% if cookiecutter.vector_search == "yes" %>
    app.include_router(documents.router)
<% endif %>
<% if cookiecutter.sync_bridge == "yes" %>
    app.include_router(reports.router)
<% endif %>
    app.include_router(health.router)
    return app


settings = load_settings()
configure_logging(settings.log_level)
app = create_app(settings)
