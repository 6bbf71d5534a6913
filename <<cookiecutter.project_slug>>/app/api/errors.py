"""What a client is told when something goes wrong, and how the OpenAPI document says so."""

import logging
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.db import DatabaseUnavailable, error_code
<% if cookiecutter.vector_search == "yes" %>
from app.models.document import EMBEDDING_SIZE
from app.schemas.document import MAX_BULK
<% endif %>
from app.schemas.error import Error

logger = logging.getLogger(__name__)

<% if cookiecutter.vector_search == "yes" %>
# Bytes; the largest body is a bulk of documents, each with up to 25 bytes for a number of its
# embedding and 4,000 for its content. Raise it for routes that take more.
MAX_BODY_SIZE = MAX_BULK * (25 * EMBEDDING_SIZE + 4_000)
<% else %>
# Bytes; the largest body of this API is some hundred. Raise it for routes that take more.
MAX_BODY_SIZE = 1_000_000
<% endif %>

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# Seconds after which a client may try again, when the database was away or busy.
RETRY_AFTER = "1"

<% if cookiecutter.database == "postgresql" %>
# The answers to errors of the server, by the beginning of their SQLSTATE
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
ANSWERS = {
    "23505": (409, "That already exists"),
    "23503": (409, "Something that this refers to, or that refers to this, is in the way"),
    "23": (422, "The database refused a value"),
    "22": (422, "The database refused a value"),
    "57014": (504, "The database took too long"),
    "08": (503, "The database is away"),
    "25006": (503, "The database takes no writes at the moment"),
    "28": (503, "The database refused the service"),
    "3D000": (503, "The database is away"),
    "40": (503, "Too many want to change the same at once"),
    "53": (503, "The database is busy"),
    "55P03": (503, "Too many want to change the same at once"),
    "57": (503, "The database is away"),
    "58": (503, "The database is away"),
}


def answer_to(error: DBAPIError) -> tuple[int, str] | None:
    """Return the status and the words for an error of the database, or None for a bug of ours."""
    code = error_code(error) or ""
    for length in (5, 2):
        if answer := ANSWERS.get(code[:length]):
            return answer
    return (503, "The database is away") if error.connection_invalidated else None
<% else %>
ALREADY_EXISTS = (409, "That already exists")
REFERENCED = (409, "Something that this refers to, or that refers to this, is in the way")
REFUSED_VALUE = (422, "The database refused a value")
TOO_LONG = (504, "The database took too long")
AWAY = (503, "The database is away")
BUSY = (503, "The database is busy")
READ_ONLY = (503, "The database takes no writes at the moment")
CONTENDED = (503, "Too many want to change the same at once")

# The answers to errors, by number; those of MariaDB alone are marked
# (https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html,
# https://mariadb.com/docs/server/reference/error-codes).
ANSWERS = {
    1062: ALREADY_EXISTS,
    1451: REFERENCED,
    1452: REFERENCED,
    1048: REFUSED_VALUE,  # NULL
    1264: REFUSED_VALUE,  # out of range
    1366: REFUSED_VALUE,  # wrong for its type
    1406: REFUSED_VALUE,  # too long
    3819: REFUSED_VALUE,  # check constraint
    4025: REFUSED_VALUE,  # check constraint (MariaDB)
    1205: TOO_LONG,  # lock wait timeout
    1317: TOO_LONG,  # interrupted
    1969: TOO_LONG,  # max_statement_time (MariaDB)
    3024: TOO_LONG,  # max_execution_time
    1213: CONTENDED,  # deadlock
    1040: BUSY,  # too many connections
    1203: BUSY,  # too many connections of this user
    1226: BUSY,  # a limit of this user
    1041: BUSY,  # out of memory
    1290: READ_ONLY,  # --read-only
    1792: READ_ONLY,  # transaction
    1836: READ_ONLY,  # read-only mode
    1044: AWAY,  # access denied to the database
    1045: AWAY,  # access denied to the user
    1049: AWAY,  # unknown database
    1053: AWAY,  # shutting down
    1927: AWAY,  # connection killed (MariaDB)
    2002: AWAY,  # cannot connect to the socket
    2003: AWAY,  # cannot connect to the host
    2006: AWAY,  # server has gone away
    2013: AWAY,  # lost connection
}


def answer_to(error: DBAPIError) -> tuple[int, str] | None:
    """Return the status and the words for an error of the database, or None for a bug of ours."""
    code = error_code(error)
    if code in ANSWERS:
        return ANSWERS[code]
    return AWAY if error.connection_invalidated else None
<% endif %>


def respond(status: int, detail: Any) -> JSONResponse:
    """Return an error as FastAPI would."""
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
    return JSONResponse({"detail": detail}, status, headers)


async def on_database_error(_: Request, error: Exception) -> JSONResponse:
    """Answer what the database would not do; raise again what is a bug of ours."""
    assert isinstance(error, DBAPIError)
    answer = answer_to(error)
    if answer is None:
        raise error
    if answer[0] >= 500:
        logger.warning("%d: %s (%s)", *answer, error.orig)
    return respond(*answer)


async def on_unavailable(_: Request, error: Exception) -> JSONResponse:
    """Answer for a database that is away."""
    logger.warning("503: %s", error)
    return respond(503, "The database is away")


async def on_full_pool(_: Request, error: Exception) -> JSONResponse:
    """Answer when no connection was free in time."""
    logger.warning("503: %s", error)
    return respond(503, "No database connection was free in time")


async def on_timeout(_: Request, error: Exception) -> JSONResponse:
    """Answer when the driver gave up on a server that says nothing, or a route on something."""
    logger.warning("504: %r", error)
    return respond(504, "That took too long")


async def on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong with a request without repeating it: it may hold secrets, or text that
    cannot be encoded.
    """
    assert isinstance(error, RequestValidationError)
    keys = ("type", "loc", "msg")
    return respond(422, [{key: e[key] for key in keys} for e in error.errors()])


async def on_wrong_method(request: Request, _: Exception) -> JSONResponse:
    """Say which methods a path has; the router says it of the first route with that path alone."""

    def fits(route: BaseRoute, method: str) -> bool:
        return route.matches({**request.scope, "method": method})[0] is Match.FULL

    allowed = [m for m in METHODS if any(fits(route, m) for route in request.app.routes)]
    return JSONResponse({"detail": "Method Not Allowed"}, 405, {"Allow": ", ".join(allowed)})


async def on_bug(_: Request, error: Exception) -> JSONResponse:
    """Answer in JSON; the traceback goes to the log alone."""
    return respond(500, "Internal Server Error")


class BodyLimit:
    """Refuses a body as soon as it is too large. (FastAPI's `max_body_size` would not say so in
    JSON.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        size = 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_SIZE:
                raise HTTPException(413, f"More than {MAX_BODY_SIZE} bytes")
            return message

        await self.app(scope, receive_some, send)


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` answer errors as this module says."""
    app.add_exception_handler(DBAPIError, on_database_error)
    app.add_exception_handler(DatabaseUnavailable, on_unavailable)
    app.add_exception_handler(PoolTimeoutError, on_full_pool)
    app.add_exception_handler(TimeoutError, on_timeout)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(405, on_wrong_method)
    app.add_exception_handler(Exception, on_bug)
    app.add_middleware(BodyLimit)


def document(status: int, description: str) -> dict[int | str, dict[str, Any]]:
    """Return a response for a route's OpenAPI entry."""
    return {status: {"model": Error, "description": description}}


NOT_FOUND = document(404, "No such row")
CONFLICT = document(409, "A value that must be unique is taken")
INVALID_BODY = document(400, "A body that cannot be read") | document(413, "A body too large")
UNAVAILABLE = document(503, "The database is away or busy: try again after `Retry-After` seconds")
DATABASE_ERRORS = UNAVAILABLE | document(504, "A statement took too long")
