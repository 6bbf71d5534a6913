"""The database: one engine with a bounded pool, and its sessions.

Copy this file, `connect.py`, `pool.py`, `slots.py`, `retries.py`, `server_errors.py` and `deps.py`
into a package of any project: they import nothing else of this one.
<% if cookiecutter.database == "postgresql" %>
They need `fastapi>=0.165`, `sqlalchemy[asyncio]>=2.1.9` and `asyncpg`. The settings are arguments:

    Database(
        make_url("postgresql+asyncpg://user:password@127.0.0.1:5432/name"),
<% else %>
They need `fastapi>=0.165`, `sqlalchemy[asyncio]>=2.1.9` and `asyncmy`. The settings are arguments:

    Database(
        make_url("mysql+asyncmy://user:password@127.0.0.1:3306/name"),
<% endif %>
        pool_size=20,  # connections that stay open
        max_overflow=0,  # more of them under load
        pool_timeout=3,  # seconds to wait for one
        pool_recycle=1800,  # seconds after which one is replaced, -1 for never
        statement_timeout=30,  # seconds after which the server stops a statement
    )
"""

import asyncio
<% if cookiecutter.database == "postgresql" %>
import json
<% endif %>
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Self, cast

from sqlalchemy import URL, TextClause, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.util.concurrency import greenlet_spawn

from .connect import MAX_CONNECTIONS, Login, listen_to_connects, open_within, server_limits
from .pool import FairPool
from .retries import Opened, listen_to_commits, retry_conflicts
<% if cookiecutter.database == "postgresql" %>
from .server_errors import DatabaseUnavailable, Ending, error_code, listen_to_errors
<% else %>
from .server_errors import DatabaseUnavailable, error_code, listen_to_errors
from .values import listen_to_values
<% endif %>

__all__ = ["Database", "DatabaseUnavailable", "OwnedSession", "error_code", "retry_conflicts"]

logger = logging.getLogger(__name__)

# Seconds within which a healthy server answers what takes no time.
PING_TIMEOUT = 2.0

# Seconds for a goodbye to the server at the end; what is open after that is closed without.
CLOSE_TIMEOUT = 2.0


async def nothing() -> None:
    """Wait for nothing else after a commit."""


class OneTaskSession(Session):
    """The synchronous session that SQLAlchemy has inside of an `OwnedSession`."""


@event.listens_for(OneTaskSession, "do_orm_execute")
def refuse_strangers(state: ORMExecuteState) -> None:
    """Refuse what an object's attribute loads for another task."""
    refuse_other_tasks(state.session)


listen_to_commits(OneTaskSession)


def refuse_other_tasks(session: Session) -> None:
    """Raise RuntimeError in any task but the one that opened the session, and after its end."""
    task = session.info["opened"].task
    why = "is over: its work is committed or rolled back. Open another one:"
    if task is not None:
        # In a thread, such as that of a route of `def`, there is no task at all.
        with suppress(RuntimeError):
            if task is asyncio.current_task():
                return
        why = "belongs to another task, of `async def`. Open one in each task:"
    raise RuntimeError(f"This session {why} `async with database.session() as session`.")


class OwnedSession(AsyncSession):
    """A session of one task, which ends once. Any other use of it raises RuntimeError.

    Tasks that shared it would end each other's transaction. Used after its end it would begin
    again in silence, commit nothing, and keep a connection for good.
    """

    sync_session_class = OneTaskSession
    _owned: Session

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._owned.info["opened"] = Opened(partial(greenlet_spawn, self._owned.invalidate))

    async def close(self) -> None:
        """End the session: what was not committed is rolled back."""
        # SQLAlchemy closes it in a task of its own, which a cancellation cannot reach.
        self._owned.info["opened"].close()
        await greenlet_spawn(self._owned.close)

    def _get_session(self) -> Session:
        refuse_other_tasks(self._owned)
        return self._owned

    def _set_session(self, session: Session) -> None:
        self._owned = session

    # By these two SQLAlchemy's own class comes to the session for whatever it is asked to do.
    sync_session = property(_get_session, _set_session)
    _proxied = property(_get_session, _set_session)


class Database:
    """One engine with a bounded pool, and the sessions on it.

    One worker never has more than `pool_size + max_overflow` connections open.
    """

    def __init__(
        self,
        url: URL,
        *,
        pool_size: int,
        max_overflow: int,
        pool_timeout: float,
        pool_recycle: int,
        statement_timeout: float,
        echo: bool = False,
        login: Login | None = None,
    ) -> None:
        """Set up the engine; nothing is opened until the first use. Times are in seconds.

        `login` is asked at each new connection for a URL with the user and password of now.
        """
<% if cookiecutter.database == "postgresql" %>
        self.engine = create_async_engine(
            url,
            poolclass=FairPool,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout,
            pool_recycle=pool_recycle,
            echo=echo,
            # Values are people's data: kept out of errors, and so of logs.
            hide_parameters=not echo,
            # Escaped, half a character would be stored, and could not be answered.
            json_serializer=partial(json.dumps, ensure_ascii=False),
            # What comes back in the middle of a transaction is closed: see `FairPool`.
            pool_reset_on_return=None,
            connect_args={
                "async_creator_fn": partial(open_within, pool_timeout),
                # For a server that does not even say that the time is over.
                "command_timeout": statement_timeout + 5,
                "server_settings": server_limits(statement_timeout),
            },
        )
<% else %>
        self.engine = create_async_engine(
            url,
            poolclass=FairPool,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout,
            pool_recycle=pool_recycle,
            echo=echo,
            # Values are people's data: kept out of errors, and so of logs.
            hide_parameters=not echo,
            # What comes back in the middle of a transaction is closed: see `FairPool`.
            pool_reset_on_return=None,
            connect_args={
                "async_creator_fn": partial(open_within, pool_timeout),
                # For a server that does not even say that the time is over.
                "read_timeout": statement_timeout + 5,
                "init_command": server_limits(statement_timeout),
                # A read is a transaction of its own; sessions begin theirs: see `connect.py`.
                "autocommit": True,
                # Statements are prepared once for each connection, as other drivers do it.
                "stmt_cache_size": 100,
            },
        )
<% endif %>
        listen_to_errors(self.engine.sync_engine)
        listen_to_connects(self.engine.sync_engine, login)
<% if cookiecutter.database == "postgresql" %>
        self.ending = Ending(self.engine.sync_engine)
<% else %>
        listen_to_values(self.engine.sync_engine)
<% endif %>
        self.sessions = async_sessionmaker(
            self.engine,
            class_=OwnedSession,
            # Once closed, it is refused also to who holds the synchronous session inside of it.
            close_resets_only=False,
            # Objects stay readable after the commit, when nothing can be loaded any more.
            expire_on_commit=False,
        )
        # What else a commit waits for: see `replica.py`.
        self.after_commit: Callable[[], Awaitable[None]] = nothing
        # What hears of each statement that was run past SQLAlchemy: the statement, its connection,
        # its seconds and its error, if any. See `telemetry.py`.
        self.on_statement: Callable[[str, Any, float, BaseException | None], None] | None = None
<% if cookiecutter.database == "postgresql" %>
        self._cutting: asyncio.Task[None] | None = None
<% endif %>

    @property
    def pool(self) -> FairPool:
        """Return the engine's pool."""
        return cast(FairPool, self.engine.sync_engine.pool)

    async def __aenter__(self) -> Self:
<% if cookiecutter.database == "postgresql" %>
        self._watch()
<% endif %>
        return self

    async def __aexit__(self, *_: object) -> None:
<% if cookiecutter.database == "postgresql" %>
        self._next_look.cancel()
        if self._cutting is not None:
            self._cutting.cancel()
<% endif %>
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.engine.dispose()
        except TimeoutError:
            # Nobody answers any more, and each connection would wait for that by itself.
            self.pool.terminate()

<% if cookiecutter.database == "postgresql" %>
    def _watch(self) -> None:
        """Look once a second for who waits long, and whether the server is still there."""
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(1, self._watch)
        idle = self._cutting is None or self._cutting.done()
        if idle and (addresses := {driver._addr for driver in self.pool.in_use(1)}):
            self._cutting = loop.create_task(self.pool.cut_off_silent(addresses))

<% endif %>
    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Open a session: committed at the end of the block, rolled back on any error.

        Raises `sqlalchemy.exc.TimeoutError` when no connection is free within `pool_timeout`, and
        `DatabaseUnavailable` when none can be opened.
        """
        session = self.sessions()
        info = session.info
        try:
            async with session:
                yield session
                if session.in_transaction():
                    await session.commit()
        finally:
            if "committed" in info:
                await self.after_commit()

    async def ping(self) -> None:
        """Raise what a request would get now, or DatabaseUnavailable when no answer comes."""
        await self._ask(text("SELECT 1"))

    async def _ask(self, question: TextClause) -> Any:
        """Return the answer to what a healthy server answers at once."""
        async with self.engine.connect() as connection:
<% if cookiecutter.database == "postgresql" %>
            if question is MAX_CONNECTIONS:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                question = question.bindparams(process=driver.get_server_pid())
<% endif %>
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    return await connection.scalar(question)
            except TimeoutError:
                raise DatabaseUnavailable(f"No answer within {PING_TIMEOUT:g} s") from None

    async def warn_if_too_many(self, connections: int, setting: str = "DATABASE_URL") -> None:
        """Log a warning when the server allows fewer connections than all workers may open."""
        try:
            allowed = await self._ask(MAX_CONNECTIONS)
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            logger.warning("The database cannot be asked how many connections it allows: %s", error)
            return
<% if cookiecutter.database == "postgresql" %>
        if allowed is not None and connections > allowed:
<% else %>
        if connections > allowed:
<% endif %>
            logger.warning(
                "All workers together may open %d connections, the server allows %d to the user of"
                " %s: lower POOL_SIZE or the number of workers, or raise the limit.",
                connections,
                allowed,
                setting,
            )
