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

from .db import Database, retry_conflicts


async def get_database(connection: HTTPConnection) -> Database:
    """Return the application's database, for streams and tasks that open their own sessions."""
    database: Database = connection.app.state.database
    return database


DatabaseDep = Annotated[Database, Depends(get_database)]


async def get_session(database: DatabaseDep) -> AsyncIterator[AsyncSession]:
    """Open the request's session: committed when all went well, rolled back on any error."""
    async with database.session() as session:
        yield session


# With scope="function" the commit comes before the response: a commit that fails is never
# answered with success.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]


class RetryRoute(APIRoute):
    """A route that is run again as a whole, commit included, when it lost a conflict.

    For routers that write: `APIRouter(route_class=RetryRoute)`. What such a route does beside the
    database, it may do more than once.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()

        async def unit_of_work(request: Request) -> Response:
            # FastAPI keeps function-scoped dependencies on this stack and closes it after the
            # handler; closed here, a conflict at the commit is seen in time.
            async with AsyncExitStack() as stack:
                request.scope["fastapi_function_astack"] = stack
                return await handler(request)

        async def run(request: Request) -> Any:
            return await retry_conflicts(lambda: unit_of_work(request))

        return run
