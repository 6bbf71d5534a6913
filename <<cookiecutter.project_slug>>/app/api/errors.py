"""What a client is told when something goes wrong, and how the OpenAPI document says so."""

import logging
<% if cookiecutter.database == "mysql" %>
import re
<% endif %>
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from inspect import isawaitable
from typing import Any, cast

<% if cookiecutter.database == "postgresql" %>
from asyncpg import PostgresError
<% endif %>
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, Response
from fastapi.websockets import WebSocketState
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

<% if cookiecutter.database == "postgresql" %>
from app.core.server_errors import DatabaseUnavailable, causes, error_code, first_error, is_stale
<% else %>
from app.core.server_errors import DatabaseUnavailable, error_code, first_error
<% endif %>
from app.schemas.error import Error

logger = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

# Seconds after which a client may try again, when the database was away or busy.
RETRY_AFTER = "1"

# How a socket is closed (https://www.iana.org/assignments/websocket): when it may be tried again
# later, and after any other error.
TRY_AGAIN_LATER = 1013
INTERNAL_ERROR = 1011

TOO_LARGE = "The body is too large"
PLAIN_TEXT = (b"content-type", b"text/plain; charset=utf-8")

CONNECTING = WebSocketState.CONNECTING

ALREADY_EXISTS = (409, "That already exists")
MISSING = (409, "That refers to something that does not exist")
REFERRED_TO = (409, "Something still refers to that")
REFUSED_VALUE = (422, "The database refused a value")
TOO_LONG = (504, "The database took too long")
AWAY = (503, "The database is away")
BUSY = (503, "The database is busy")
<% if cookiecutter.database == "postgresql" %>
REFUSED = (503, "The database refused the service")
<% endif %>
READ_ONLY = (503, "The database takes no writes at the moment")
CONTENDED = (503, "Too many want to change the same at once")
<% if cookiecutter.database == "postgresql" %>
CHANGED = (503, "The database's tables are being changed")

# The answers to errors of the server, by the beginning of their SQLSTATE
# (https://www.postgresql.org/docs/current/errcodes-appendix.html). None is a bug of ours: what a
# client may send is checked before, so a value that is missing (23502), or that its type does not
# know (22P02, such as a new member of an enum without its migration), is our mistake.
ANSWERS: dict[str, tuple[int, str] | None] = {
    "23505": ALREADY_EXISTS,
    "23P01": ALREADY_EXISTS,
    "23001": REFERRED_TO,
    "23502": None,
    "23": REFUSED_VALUE,
    "22P02": None,
    "22": REFUSED_VALUE,
    "57014": TOO_LONG,
    "08": AWAY,
    "25006": READ_ONLY,
    "28": REFUSED,
    "3D000": AWAY,
    "40": CONTENDED,
    "53": BUSY,
    "55P03": CONTENDED,
    "57": AWAY,
    "58": AWAY,
}


def answer_to(error: DBAPIError) -> tuple[int, str] | None:
    """Return the status and the words for an error of the database, or None for a bug of ours."""
    code = error_code(error) or ""
    if is_stale(error):
        return CHANGED
    if code == "23503":
        return answer_to_foreign_key(error)
    # The driver refuses what is of another type in Python than the column has.
    wrong_type = (isinstance(cause, TypeError | AttributeError) for cause in causes(error.orig))
    if code == "22000" and any(wrong_type):
        return None
    for length in (5, 2):
        if code[:length] in ANSWERS:
            return ANSWERS[code[:length]]
    return AWAY if error.connection_invalidated else None


def answer_to_foreign_key(error: DBAPIError) -> tuple[int, str]:
    """Say which side of a foreign key is in the way."""
    [verb, *_] = (error.statement or "").upper().split() or [""]
<% if cookiecutter.sync_bridge == "yes" %>
    # asyncpg's is in the error itself, psycopg's in its `diag`.
    said = [
        getattr(getattr(cause, "diag", None), "message_detail", getattr(cause, "detail", None))
        for cause in causes(error.orig)
    ]
    details = " ".join(filter(None, said))
<% else %>
    details = " ".join(str(getattr(cause, "detail", "")) for cause in causes(error.orig))
<% endif %>
    # The server's words are in its own language; then the statement tells, but for an UPDATE.
    if "still referenced" in details or (verb == "DELETE" and "not present" not in details):
        return REFERRED_TO
    if "not present" in details or verb == "INSERT":
        return MISSING
    return (409, "That refers to something that does not exist, or something still refers to it")


def name_in(error: DBAPIError) -> str | None:
    """Return what an error is about, such as a constraint, but never a value."""
    for cause in causes(error.orig):
<% if cookiecutter.sync_bridge == "yes" %>
        said = getattr(cause, "diag", cause)  # psycopg's
        if name := getattr(said, "constraint_name", None) or getattr(said, "column_name", None):
<% else %>
        if name := getattr(cause, "constraint_name", None) or getattr(cause, "column_name", None):
<% endif %>
            return str(name)
    return None
<% else %>

# The answers to errors, by number; those of MariaDB alone are marked
# (https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html,
# https://mariadb.com/docs/server/reference/error-codes). What is not here is a bug of ours, such as
# a value that is missing (1048, 1364), or that its type does not know (1265, such as a new member of
# an enum without its migration): what a client may send is checked before.
ANSWERS = {
    1062: ALREADY_EXISTS,
    1586: ALREADY_EXISTS,
    1216: MISSING,  # for a user who may not see the other table
    1452: MISSING,
    1217: REFERRED_TO,  # for a user who may not see the other table
    1451: REFERRED_TO,
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
    3101: CONTENDED,  # a commit that another node's was before (MySQL)
    1040: BUSY,  # too many connections
    1203: BUSY,  # too many connections of this user
    1226: BUSY,  # a limit of this user
    1041: BUSY,  # out of memory
    1290: READ_ONLY,  # --read-only
    1792: READ_ONLY,  # transaction
    1836: READ_ONLY,  # read-only mode
    1180: READ_ONLY,  # a commit that the cluster does not take (Galera)
    3100: READ_ONLY,  # a commit that the cluster does not take (MySQL)
    1044: AWAY,  # access denied to the database
    1045: AWAY,  # access denied to the user
    1047: AWAY,  # a node that has lost its cluster (Galera)
    1049: AWAY,  # unknown database
    1053: AWAY,  # shutting down
    1927: AWAY,  # connection killed (MariaDB)
    2002: AWAY,  # cannot connect to the socket
    2003: AWAY,  # cannot connect to the host
    2006: AWAY,  # server has gone away
    2013: AWAY,  # lost connection
}

# What the server's messages name: a key, a column, a constraint.
NAME = re.compile(
    r"^Duplicate entry .* for key '([^']+)'"
    r"|^(?:Data|Out of range|Incorrect) .* for column '?(\S+?)'? at row"
    r"|CONSTRAINT `([^`]+)`"
    r"|^Check constraint '([^']+)'",
    re.DOTALL,
)


def answer_to(error: DBAPIError) -> tuple[int, str] | None:
    """Return the status and the words for an error of the database, or None for a bug of ours."""
    code = error_code(error)
    if code in ANSWERS:
        return ANSWERS[code]
    return AWAY if error.connection_invalidated else None


def name_in(error: DBAPIError) -> str | None:
    """Return what an error is about, such as a constraint, but never a value."""
    arguments = error.orig.args if error.orig is not None else ()
    found = NAME.search(str(arguments[1])) if len(arguments) > 1 else None
    return next(filter(None, found.groups()), None) if found else None
<% endif %>


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
    return await respond(connection, status, words)


async def on_stale_data(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer when a row is not any more what it was when it was read."""
    logger.warning("409: %s", error)
    return await respond(connection, 409, "Somebody else has changed or deleted that meanwhile")


async def on_unavailable(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer for a database that is away."""
    logger.warning("503: %s", error)
    return await respond(connection, 503, "The database is away")


async def on_full_pool(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer when no connection was free in time."""
    logger.warning("503: %s", error)
    return await respond(connection, 503, "No database connection was free in time")


async def on_timeout(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answer when the driver gave up on a server that says nothing, or a route on something."""
    logger.warning("504: %r", error)
    return await respond(connection, 504, "That took too long")


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


async def on_bug(*_: object) -> JSONResponse:
    """Answer in JSON; the traceback goes to the log alone."""
    return JSONResponse({"detail": "Internal Server Error"}, 500)


HANDLERS: dict[type, Callable[[HTTPConnection, Exception], Awaitable[Response | None]]] = {
    DBAPIError: on_database_error,
    PendingRollbackError: on_database_error,
    StaleDataError: on_stale_data,
    DatabaseUnavailable: on_unavailable,
    PoolTimeoutError: on_full_pool,
    TimeoutError: on_timeout,
    StarletteHTTPException: on_http_error,
    RequestValidationError: on_invalid_request,
    ExceptionGroup: on_group,
}


class LastResort:
    """Answers for a bug, and writes its traceback to the log.

    An error that leaves the application makes the web server close the connection after the
    answer, on which the client's next request may be under way already. So it ends here, unless
    half of an answer was sent.
    """

    # For tests in the same process, which look at the error itself.
    raise_bugs = False

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch what is sent."""
        last: Message = {"type": "nothing"}

        async def watch(message: Message) -> None:
            nonlocal last
            await send(message)
            last = message

        try:
            await self.app(scope, receive, watch)
        except Exception:
            half = last["type"] == "http.response.start" or last.get("more_body", False)
            if half or scope["type"] == "lifespan" or self.raise_bugs:
                raise
            logger.exception("500: %s %s", scope.get("method", "WebSocket"), scope["path"])
            if last["type"] == "nothing":
                await (await on_bug())(scope, receive, send)
            elif last["type"] in {"websocket.accept", "websocket.send"}:
                # Who has hung up is told nothing.
                with suppress(OSError, RuntimeError):
                    await send({"type": "websocket.close", "code": INTERNAL_ERROR})


class BodyLimit:
    """Refuses a body as soon as it is too large.

    Where a route has a `max_body_size` of its own, FastAPI counts, and its answer is only put into
    JSON here. (For all routes that would cost ten times as much as this.)
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self.app = app
        self.max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received."""
        size, refused = 0, False

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body_size and MAX_BODY_SIZE_SCOPE_KEY not in scope:
                raise HTTPException(413, TOO_LARGE)
            return message

        async def send_json(message: Message) -> None:
            nonlocal refused
            if message.get("status") == 413 and PLAIN_TEXT in message["headers"]:
                refused = True
                await JSONResponse({"detail": TOO_LARGE}, 413)(scope, receive, send)
            elif not refused:
                await send(message)

        await self.app(scope, receive_some, send_json)


def add_error_handlers(app: FastAPI, max_body_size: int = 1_000_000) -> None:
    """Make `app` answer errors as this module says; the size is in bytes."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, cast(Any, handler))
    app.add_exception_handler(405, on_wrong_method)
    app.add_exception_handler(Exception, on_bug)
    app.add_middleware(BodyLimit, max_body_size=max_body_size)
    app.add_middleware(LastResort)


def document(status: int, description: str) -> dict[int | str, dict[str, Any]]:
    """Return a response for a route's OpenAPI entry."""
    return {status: {"model": Error, "description": description}}


NOT_FOUND = document(404, "No such row")
CONFLICT = document(409, "A value that must be unique is taken")
INVALID_BODY = document(400, "A body that cannot be read") | document(413, "A body too large")
UNAVAILABLE = document(503, "The database is away or busy: try again after `Retry-After` seconds")
DATABASE_ERRORS = UNAVAILABLE | document(504, "A statement took too long")
