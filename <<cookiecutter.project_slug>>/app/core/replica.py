"""A replica that answers reads beside its primary, for as long as it knows what clients know.

A write is answered when the replica has it. So whoever reads next finds it, by whichever worker,
and need not say who has written. A replica that is away or too far behind is not read from: reads
go to the primary meanwhile. Both rest on one question that is asked all the time: has the replica
reached what the primary had committed a moment ago?
"""

import asyncio
import logging
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, Self
from weakref import WeakKeyDictionary

from sqlalchemy import Boolean, String, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from .db import Database, nothing
from .driver import Connection, Plans
from .server_errors import DatabaseUnavailable, error_code
from .statements import Read

logger = logging.getLogger(__name__)

# Seconds that a replica may be behind, and that a write waits for it at most.
LAG_LIMIT = 2.0

# Seconds after which the primary is taken as silent by who asks how far it is.
POSITION_LIMIT = 1.0

# Seconds between two questions when nobody writes; and between two looks at a replica that is
# behind, at first and at last.
INTERVAL = 0.5
LOOK_AGAIN = 0.002
MOST_LOOK_AGAIN = 0.05

<% if cookiecutter.database == "postgresql" %>
# How far the primary is. What is committed is flushed, but where commits do not wait for that.
POSITION = Read(
    str,
    text(
        "SELECT CASE current_setting('synchronous_commit') WHEN 'off'"
        " THEN pg_current_wal_insert_lsn() ELSE pg_current_wal_flush_lsn() END::text AS position"
    ).columns(position=String),
)

# Whether a server has reached that; no row of one that is no replica, or not any more.
HAS_REACHED = Read(
    bool,
    text(
        "SELECT pg_last_wal_replay_lsn() >= CAST(CAST(:position AS text) AS pg_lsn) AS reached"
        " WHERE pg_is_in_recovery()"
    ).columns(reached=Boolean),
)

# A statement was stopped by its time limit (SQLSTATE).
TOO_LONG = {"57014"}
<% else %>
# How far the primary is. What is in comments only MariaDB (M!) or MySQL (80000) reads.
POSITION = Read(
    str,
    text(
        "SELECT /*M! @@gtid_current_pos */ /*!80000 @@GLOBAL.gtid_executed */ AS position"
    ).columns(position=String),
)

# Whether a server has reached that; no row of one that is no replica by GTID.
HAS_REACHED = Read(
    bool,
    text(
        "SELECT 0 = /*M! MASTER_GTID_WAIT( */ /*!80000 1 - GTID_SUBSET( */ :position,"
        " /*M! 0.02 */ /*!80000 @@GLOBAL.gtid_executed */ ) AS reached FROM DUAL"
        " WHERE /*M! @@gtid_slave_pos <> '' */ /*!80000 @@GLOBAL.gtid_mode = 'ON' */"
    ).columns(reached=Boolean),
)

# A statement was stopped by its time limit.
TOO_LONG = {1317, 1969, 3024}
<% endif %>


class Replica:
    """Whether a replica may answer reads, and when it has what was written."""

    def __init__(self, primary: Database, database: Database) -> None:
        self.database = database
        self._primary = primary
        self._plans: Plans = WeakKeyDictionary()
        # When the primary was asked for the last position that the replica has reached.
        self._reached = 0.0
        # Since when it fails; since when it may be read from again; until when.
        self._out_since = inf
        self._back_since = 0.0
        self._current_until = 0.0
        self._asked = asyncio.Event()
        self._looked = asyncio.Event()
        self._why_out: str | None = None
        self._warned = False
        self._ended = False

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        await self._look()
        self._looking = asyncio.create_task(self._look_again_and_again())
        self._primary.after_commit = self.wait_for_it
        return self

    async def __aexit__(self, *error: object) -> None:
        self._primary.after_commit = nothing
        # A driver may keep a cancellation to itself.
        self._ended = True
        self._looking.cancel()
        with suppress(asyncio.CancelledError):
            await self._looking
        await self.database.__aexit__(*error)

    @property
    def is_current(self) -> bool:
        """Return whether it answers, and lacks nothing that a client was told of.

        Each worker reads here only while it knows that the replica has what was committed
        `LAG_LIMIT` ago; and a write that the replica does not have is not answered earlier.
        """
        return monotonic() < self._current_until

    async def wait_for_it(self) -> None:
        """Wait, for `LAG_LIMIT` at most, until the replica has what is committed by now.

        Not while it is out of use: nobody reads there until it was back for a while.
        """
        committed = monotonic()
        if committed > self._out_since + LAG_LIMIT:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LAG_LIMIT):
                while self._reached < committed:
                    self._asked.set()
                    await self._looked.wait()

    def leave(self, error: Exception) -> bool:
        """Return whether to ask the primary after this error of the replica.

        A replica that is away is not read from until it has answered. Of what else goes wrong,
        such as a conflict with what it replays, or a table that it does not have yet, only a time
        limit and a full pool are final: the primary would not be faster.
        """
        if isinstance(error, DatabaseUnavailable) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        ):
            self._put_out(error)
            return True
        if isinstance(error, TimeoutError | PoolTimeoutError) or (
            isinstance(error, DBAPIError) and error_code(error) in TOO_LONG
        ):
            return not self.is_current
        return isinstance(error, DBAPIError)

    async def _look_again_and_again(self) -> None:
        while not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._asked.wait()
            self._asked.clear()
            await self._look()

    async def _look(self) -> None:
        """Ask whether the replica has what the primary has now; note what comes of it."""
        began = monotonic()
        position = await self._position()
        try:
            async with asyncio.timeout(LAG_LIMIT):
                await self._reach(position)
        except Exception as error:
            self._out_since = min(self._out_since, began)
            if not self.is_current:
                self._put_out(error)
        else:
            self._note(began, position)
        # Wakes who waits now.
        self._looked.set()
        self._looked.clear()

    def _note(self, began: float, position: str | None) -> None:
        """Note that the replica had a position of that time, or answers where there is none."""
        if position is not None:
            if began > self._out_since + LAG_LIMIT:
                # Until every worker has seen that it is back, and waits for it again.
                self._back_since = began + 2 * LAG_LIMIT
            self._reached, self._out_since = began, inf
        if self._out_since == inf and began >= self._back_since:
            self._current_until = began + LAG_LIMIT
            if self._why_out is not None:
                logger.warning("Reads go to the replica again.")
                self._why_out = None

    def _put_out(self, error: Exception) -> None:
        """Read from the primary until the replica is back."""
        self._current_until = 0.0
        if self._why_out is None:
            self._why_out = str(error) or f"it is more than {LAG_LIMIT:g} s behind, or silent"
            logger.warning("Reads go to the primary, not to its replica: %s", self._why_out)

    async def _position(self) -> str | None:
        """Return how far the primary is, or None when it does not say: it is away, or too busy.

        There is nothing new to read then, or nobody knows it: the replica stays in use.
        """
        with suppress(Exception):
            async with asyncio.timeout(POSITION_LIMIT):
                [position] = await self._ask(self._primary, POSITION)
                return str(position)
        return None

    async def _reach(self, position: str | None) -> None:
        """Wait until the replica has a position; without one, for any answer."""
        pause = LOOK_AGAIN
        while (answer := await self._ask(self.database, HAS_REACHED, position=position)) == [False]:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_LOOK_AGAIN)
        if (position == "" or answer == []) and not self._warned:
            self._warned = True
            logger.warning(
                "The replica cannot tell how far behind it is: reads may miss what was just written."
            )

    async def _ask(self, database: Database, read: Read[Any], **values: Any) -> list[Any]:
        pool = database.pool
        began, waits_in_line = monotonic(), pool.is_full
        try:
            connection = Connection(database, self._plans, await pool.acquire())
            began, waits_in_line = monotonic(), False
            try:
                rows: list[Any] = await connection.run(read, read.prepare(values))
                return rows
            finally:
                await connection.release()
        except asyncio.CancelledError:
            is_silent = not waits_in_line and monotonic() > began + LAG_LIMIT / 2
            if is_silent and database is self.database:
                # Whoever waits for an answer there asks the primary instead.
                pool.cut_off(pool.in_use(LAG_LIMIT / 2))
            raise
