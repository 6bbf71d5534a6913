"""Logs: a line for each event, with the request that it belongs to; text in a terminal, else JSON."""

import logging
import random
import re
import sys
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .source import source_line

logger = logging.getLogger(__name__)

TEXT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
JSON = ["levelname", "name", "message", "request_id", "trace_id"]
NAMES = {"levelname": "level", "name": "logger", "exc_info": "traceback"}

# What a caller may name its request: what it sends is written to the log as it is.
REQUEST_ID = re.compile(rb"[\w.:/+=@-]{1,128}")

# https://www.w3.org/TR/trace-context/#traceparent-header
TRACEPARENT = re.compile(rb"[\da-f]{2}-([\da-f]{32})-[\da-f]{16}-[\da-f]{2}.*")

# Outside of requests there is none.
NONE = "-"
request_id = ContextVar("request_id", default=NONE)
trace_id = ContextVar("trace_id", default=NONE)
request_scope = ContextVar[Scope | None]("request_scope", default=None)


def add_request(record: logging.LogRecord) -> bool:
    """Add to a record what it is logged for, and to a statement's the line that has asked for it."""
    record.request_id = request_id.get()
    record.trace_id = trace_id.get()
    # Of a session's statement ECHO_SQL makes two: the values, in brackets, come by themselves.
    if record.name.startswith("sqlalchemy.engine") and not record.msg.startswith("["):
        record.source = source_line()
    return True


class TextFormatter(logging.Formatter):
    """Writes the line that has asked for a statement below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = super().formatMessage(record)
        source = getattr(record, "source", None)
        return f"{text}\n  ↳ {source}" if source else text


def log_slow_statement(sql: str, seconds: float, waited: float) -> None:
    """Write down a statement without its values, and for which route it was."""
    scope = request_scope.get() or {}
    path = getattr(scope.get("route"), "path", NONE)
    logger.warning(
        "Slow statement: %.3f s, after %.3f s of waiting for a connection, for %s %s: %s",
        seconds,
        waited,
        scope.get("method", NONE),
        path,
        " ".join(sql.split()),
        extra={"source": source_line()},
    )


handler = logging.StreamHandler()
handler.addFilter(add_request)
handler.setFormatter(
    TextFormatter(TEXT)
    if sys.stderr.isatty()
    else JsonFormatter(JSON, rename_fields=NAMES, timestamp="time")
)


def configure_logging(level: str) -> None:
    """Write everything from this level on to standard error, what the web server says as well."""
    root = logging.getLogger()
    root.setLevel(level)
    # The web server's loggers have levels of their own.
    handler.setLevel(level)
    if handler not in root.handlers:
        root.addHandler(handler)
    # Without any, ECHO_SQL would give it one that writes each statement a second time.
    statements = logging.getLogger("sqlalchemy.engine.Engine")
    if not statements.handlers:
        statements.addHandler(logging.NullHandler())
<% if cookiecutter.database == "mysql" %>
    # The driver writes down the server's warnings, which repeat values: they are people's data.
    logging.getLogger("asyncmy").setLevel(logging.ERROR)
<% endif %>
    for name in ("uvicorn", "uvicorn.access"):
        server = logging.getLogger(name)
        # Without any it was told to be silent: `--no-access-log`.
        if server.handlers:
            server.handlers.clear()
            server.propagate = True


class RequestIds:
    """Gives each request an id: the caller's, or a new one. The answer's `X-Request-ID` says it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note whose request this task is about."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        identifier = headers.get(b"x-request-id", b"")
        # Told apart, not secret: no reason to ask the system for each.
        if not REQUEST_ID.fullmatch(identifier):
            identifier = b"%032x" % random.getrandbits(128)
        request_id.set(identifier.decode())
        request_scope.set(scope)
        if found := TRACEPARENT.fullmatch(headers.get(b"traceparent", b"")):
            trace_id.set(found[1].decode())
        header = (b"x-request-id", identifier)

        async def send_with_id(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self.app(scope, receive, send_with_id)
