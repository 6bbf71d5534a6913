"""What stands around the whole application: an answer for each bug, and a limit for each body."""

import logging
from contextlib import suppress

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.deps import has_body

logger = logging.getLogger(__name__)

# How a socket is closed after a bug (https://www.iana.org/assignments/websocket).
INTERNAL_ERROR = 1011

TOO_LARGE = "The body is too large"
PLAIN_TEXT = (b"content-type", b"text/plain; charset=utf-8")


async def on_bug(*_: object) -> JSONResponse:
    """Answer in JSON; the traceback goes to the log alone."""
    return JSONResponse({"detail": "Internal Server Error"}, 500)


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
        """Count what is received, if there is anything: most requests have no body."""
        if not has_body(scope):
            await self.app(scope, receive, send)
            return
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
