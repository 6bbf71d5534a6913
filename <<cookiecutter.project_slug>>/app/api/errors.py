"""What a client is told when something goes wrong, and how the OpenAPI document says so."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from inspect import isawaitable
from typing import Any, cast

<% if cookiecutter.database == "postgresql" %>
from asyncpg import PostgresError
<% endif %>
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, Response
from fastapi.websockets import WebSocketState
from opentelemetry import metrics
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match

<% if cookiecutter.database == "postgresql" %>
from app.api.database_errors import REFUSED_VALUE, answer_to, name_in
<% else %>
from app.api.database_errors import answer_to, name_in
<% endif %>
from app.api.middleware import INTERNAL_ERROR, BodyLimit, LastResort, on_bug
<% if cookiecutter.database == "postgresql" %>
from app.core.server_errors import (
    DatabaseUnavailable,
    NotStored,
    causes,
    error_code,
    first_error,
)
<% else %>
from app.core.server_errors import DatabaseUnavailable, error_code, first_error
<% endif %>
from app.schemas.error import Error, Invalid

logger = logging.getLogger(__name__)

# What OpenTelemetry is told, where somebody listens: see "See inside" in the README.
unavailable = metrics.get_meter("app").create_counter("app.http.unavailable", "{response}")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# Seconds after which a client may try again, when the database was away or busy.
RETRY_AFTER = "1"

# How a socket is closed that may be tried again later (https://www.iana.org/assignments/websocket).
TRY_AGAIN_LATER = 1013

CONNECTING = WebSocketState.CONNECTING

# Errors that are answered by their class alone.
ANSWERS = {
    # A row is not any more what it was when it was read.
    StaleDataError: (409, "Somebody else has changed or deleted that meanwhile"),
<% if cookiecutter.database == "postgresql" %>
    NotStored: REFUSED_VALUE,
<% endif %>
    DatabaseUnavailable: (503, "The database is away"),
    PoolTimeoutError: (503, "No database connection was free in time"),
    # Its sender is gone, and reads no answer.
    ClientDisconnect: (400, "The body did not arrive in full"),
    # The driver gave up on a server that says nothing, or a route on something.
    TimeoutError: (504, "That took too long"),
}


async def respond(connection: HTTPConnection, status: int, detail: Any) -> Response | None:
    """Answer an error as FastAPI would, or close a socket: once open, it takes no answer."""
    if not isinstance(connection, WebSocket) or connection.application_state is CONNECTING:
        headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
        return JSONResponse({"detail": detail}, status, headers)
    # Who has hung up is told nothing.
    with suppress(WebSocketDisconnect, RuntimeError):
        code = TRY_AGAIN_LATER if status == 503 else INTERNAL_ERROR
        await connection.close(code, str(detail))
    return None


async def refuse(connection: HTTPConnection, status: int, words: str) -> Response | None:
    """Answer for the database; count what it could not do."""
    if status >= 500:
        unavailable.add(1, {"http.response.status_code": status, "reason": words})
    return await respond(connection, status, words)


async def on_database_error(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer what the database would not do; raise again what is a bug of ours."""
    first = first_error(error)
    answer = answer_to(first) if isinstance(first, DBAPIError) else None
    if answer is None:
<% if cookiecutter.database == "postgresql" %>
        for cause in causes(first):
            # Values are people's data, and the server may repeat all of a row here.
            if isinstance(cause, PostgresError):
                cause.detail = None
<% endif %>
        raise error
    assert isinstance(first, DBAPIError)
    status, words = answer
    if status >= 500:
        logger.warning("%d: %s (%s)", status, words, first.orig)
    else:
        named = filter(None, (error_code(first), name_in(first)))
        logger.warning("%d: %s (%s)", status, words, " ".join(map(str, named)))
    return await refuse(connection, status, words)


async def on_known_error(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer as `ANSWERS` says."""
    status, words = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    logger.warning("%d: %s", status, str(error) or repr(error))
    return await refuse(connection, status, words)


async def on_http_error(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer what a route says."""
    assert isinstance(error, StarletteHTTPException)
    if isinstance(connection, WebSocket):
        return await respond(connection, error.status_code, error.detail)
    return await http_exception_handler(cast(Request, connection), error)


async def on_group(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer for tasks that failed together: as for the first of them, unless one is a bug."""
    assert isinstance(error, ExceptionGroup)
    handlers = connection.app.exception_handlers
    answers: list[Response | None] = []
    for leaf in leaves(error):
        kind = next(kind for kind in type(leaf).__mro__ if kind in handlers)
        if kind is Exception:
            raise error
        answer = handlers[kind](connection, leaf)
        answers.append(await answer if isawaitable(answer) else answer)
    return answers[0]


def leaves(group: BaseExceptionGroup[Any]) -> Iterator[Exception]:
    """Yield the errors in a group, and in the groups inside of it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


async def on_invalid_request(connection: HTTPConnection, error: Exception) -> Response | None:
    """Say what is wrong with a request without repeating it: it may hold secrets, or text that
    cannot be encoded.
    """
    assert isinstance(error, RequestValidationError)
    keys = ("type", "loc", "msg")
    return await respond(connection, 422, [{key: e[key] for key in keys} for e in error.errors()])


async def on_wrong_method(request: Request, _: Exception) -> JSONResponse:
    """Say which methods a path has; the router says it of the first route with that path alone."""

    def fits(route: BaseRoute, method: str) -> bool:
        return route.matches({**request.scope, "method": method})[0] is Match.FULL

    allowed = [m for m in METHODS if any(fits(route, m) for route in request.app.routes)]
    return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(allowed)})


HANDLERS: dict[type, Callable[[HTTPConnection, Exception], Awaitable[Response | None]]] = {
    DBAPIError: on_database_error,
    PendingRollbackError: on_database_error,
    **dict.fromkeys(ANSWERS, on_known_error),
    StarletteHTTPException: on_http_error,
    RequestValidationError: on_invalid_request,
    ExceptionGroup: on_group,
}


def add_error_handlers(app: FastAPI, max_body_size: int = 1_000_000) -> None:
    """Make `app` answer errors as this module says; the size is in bytes."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, cast(Any, handler))
    app.add_exception_handler(405, on_wrong_method)
    app.add_exception_handler(Exception, on_bug)
    app.add_middleware(BodyLimit, max_body_size=max_body_size)
    app.add_middleware(LastResort)


def document(
    status: int, description: str, model: type[BaseModel] = Error
) -> dict[int | str, dict[str, Any]]:
    """Return a response for a route's OpenAPI entry."""
    return {status: {"model": model, "description": description}}


NOT_FOUND = document(404, "No such row")
CONFLICT = document(409, "A value that must be unique is taken")
INVALID_BODY = document(400, "A body that cannot be read") | document(413, "A body too large")
UNAVAILABLE = document(503, "The database is away or busy: try again after `Retry-After` seconds")
INVALID = document(422, "A value that is not allowed", Invalid)
DATABASE_ERRORS = INVALID | UNAVAILABLE | document(504, "A statement took too long")
