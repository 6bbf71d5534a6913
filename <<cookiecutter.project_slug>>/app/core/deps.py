"""What routes ask for: a session, and to be run again after a conflict.

Works with `db.py` in any project whose start puts a `Database` into `app.state.database`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import Message, Receive, Scope

from .db import Database
from .retries import retry_conflicts


def from_lifespan(connection: HTTPConnection, name: str) -> Any:
    """Return what the application's lifespan has put into `app.state`. Raises RuntimeError."""
    try:
        return getattr(connection.app.state, name)
    except AttributeError:
        raise RuntimeError(
            f"There is no `app.state.{name}`, since the application's lifespan has not run: use"
            " `with TestClient(app)` in a test, and enter a mounted application's lifespan in the"
            " outer one's: `async with inner.router.lifespan_context(inner)`."
        ) from None


async def get_database(connection: HTTPConnection) -> Database:
    """Return the application's database, for streams and tasks that open their own sessions."""
    database: Database = from_lifespan(connection, "database")
    return database


DatabaseDep = Annotated[Database, Depends(get_database)]


def refuse_socket(connection: HTTPConnection) -> None:
    """Raise RuntimeError where a session would stay open as long as a WebSocket, idle."""
    if connection.scope["type"] == "websocket":
        raise RuntimeError(
            "A WebSocket takes no session of its own, which would keep a connection until it ends."
            " Ask for `database: DatabaseDep`, and open one for each message:"
            " `async with database.session() as session`."
        )


async def get_session(
    connection: HTTPConnection, database: DatabaseDep
) -> AsyncIterator[AsyncSession]:
    """Open the request's session: committed when all went well, rolled back on any error."""
    refuse_socket(connection)
    # This stack is closed before the response, also where somebody asks for `Depends(get_session)`:
    # a commit that fails is never answered with success.
    stack: AsyncExitStack = connection.scope["fastapi_function_astack"]
    yield await stack.enter_async_context(database.session())


# With this scope FastAPI refuses, at the start, dependencies that would end after the session.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


# Bytes of a request's body that are kept for another run.
MAX_KEPT = 1_000_000


HTTP_1 = {"1.0", "1.1"}
OF_BODY = {b"content-length", b"transfer-encoding"}


def has_body(scope: Scope) -> bool:
    """Return whether a request may have a body: in HTTP/1 a header says so."""
    if scope["type"] != "http":
        return False
    if scope["http_version"] not in HTTP_1:
        return True
    return not OF_BODY.isdisjoint(dict(scope["headers"]))


class KeptBody:
    """A request's body as it arrives, kept so that it can be read from its beginning again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept = bytearray()
        self._more = True
        self.is_whole = True

    def append(self, part: bytes, *, more: bool) -> None:
        """Keep a part, or nothing at all when that would be too much."""
        self._more = more
        self.is_whole = self.is_whole and len(self._kept) + len(part) <= MAX_KEPT
        if self.is_whole:
            self._kept += part
        else:
            self._kept.clear()

    def reader(self) -> Receive:
        """Return a `receive` that begins with what was kept, and goes on with what arrives."""
        begun = bool(self._kept) or not self._more

        async def receive() -> Message:
            nonlocal begun
            if begun:
                begun = False
                return {"type": "http.request", "body": bytes(self._kept), "more_body": self._more}
            message = await self._receive()
            if message["type"] == "http.request":
                self.append(message.get("body", b""), more=message.get("more_body", False))
            return message

        return receive


class RetryRoute(APIRoute):
    """A route that is run again as a whole, commit included, when it lost a conflict.

    For routers that write: `APIRouter(route_class=RetryRoute)`. Each run gets the same request:
    the body from its beginning, and nothing that the run before has left behind. All dependencies
    of a run that failed end with its error. A request whose body is larger than `MAX_KEPT` is run
    once. What a route does beside its session, it may do more than once.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()

        async def run(request: Request) -> Any:
            body, bodiless = KeptBody(request.receive), not has_body(request.scope)
            if bodiless:
                # There is nothing to keep, and the first run has the request as it is.
                body.append(b"", more=False)
            elif hasattr(request, "_body"):
                # Read already, by a route class that is derived from this one.
                body.append(await request.body(), more=False)
            scope, state = request.scope, request.scope.setdefault("state", {})
            scope_before, state_before = dict(scope), dict(state)
            # Here FastAPI keeps the dependencies of a request, and ends them after the handler and
            # after the answer.
            function_stack: AsyncExitStack = scope["fastapi_function_astack"]
            request_stack: AsyncExitStack = scope["fastapi_inner_astack"]
            runs = 0

            async def unit_of_work() -> Response:
                nonlocal runs
                runs += 1
                if runs > 1:
                    for now, before in (scope, scope_before), (state, state_before):
                        now.clear()
                        now.update(before)
                try:
                    # Ended here, they learn of an error, and a conflict at the commit is seen in
                    # time.
                    async with function_stack:
                        if runs == 1 and bodiless:
                            return await handler(request)
                        return await handler(Request(scope, body.reader(), request._send))
                except BaseException as error:
                    # Those of the request's scope go on until the answer is sent, if there is one.
                    if not await request_stack.__aexit__(type(error), error, error.__traceback__):
                        raise
                raise RuntimeError("A dependency kept an error to itself: it must raise it")

            return await retry_conflicts(unit_of_work, repeatable=lambda: body.is_whole)

        return run
