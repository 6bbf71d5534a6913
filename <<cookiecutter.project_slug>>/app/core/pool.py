"""SQLAlchemy's pool, with a line in front of it."""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any
from weakref import WeakSet

from sqlalchemy.exc import DBAPIError, MissingGreenlet
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util.concurrency import await_, greenlet_spawn, in_greenlet

<% if cookiecutter.database == "postgresql" %>
from .connect import is_silent
from .server_errors import DatabaseUnavailable, error_code

logger = logging.getLogger(__name__)

# Seconds within which a server gives a sign of life.
SIGN_LIMIT = 3.0
<% else %>
from .server_errors import DatabaseUnavailable, error_code
<% endif %>

# Quiet like SQLAlchemy's own pools, which have a line for each connection at INFO.
logging.getLogger(f"{__name__}.FairPool").setLevel(logging.WARNING)


class FairPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, with a line in front of it: first come, first served.

    Who wants a connection waits for a slot, the right to have one, open or still to be opened.
    There are as many slots as connections may be, so that the pool itself never has to wait; its
    own line lets newcomers overtake, and under load some clients starve.
    """

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 0,
        timeout: float = 30,
        **options: Any,
    ) -> None:
        super().__init__(creator, pool_size, max_overflow, timeout, **options)
        # Serves in the order of arrival, and loses no slot to a waiter that is cancelled.
        self._slots = asyncio.Semaphore(pool_size + max_overflow)
        self._records = WeakSet[ConnectionPoolEntry]()

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out, for SQLAlchemy: engines and sessions come by this way."""
        await_(self._acquire_slot())
        try:
            return self._check_out()
        except BaseException:
            self._slots.release()
            raise

    async def acquire(self) -> PoolProxiedConnection:
        """Check a connection out, to be released.

        As `connect()` does it, but without the greenlet in which SQLAlchemy waits, which costs
        more than the rest. Raises `sqlalchemy.exc.TimeoutError` when none is free in time, and
        DBAPIError or DatabaseUnavailable when none can be opened.
        """
        await self._acquire_slot()
        try:
            # The usual case, in which nothing has to be waited for: one is open.
            if self.checkedin():
                with suppress(MissingGreenlet):
                    return self._check_out()
            return await greenlet_spawn(self._check_out)
        except BaseException:
            self._slots.release()
            raise

    async def release(self, connection: PoolProxiedConnection) -> None:
        """Check a connection in."""
        if self.checkedin() < self.size():
            connection.close()
        else:
            # One too many is closed in truth, which has to be waited for.
            await greenlet_spawn(connection.close)

    def terminate(self) -> None:
        """Close all connections that are checked in, without a goodbye to the server."""
        while self.checkedin():
            self._do_get().invalidate()

    @property
    def is_full(self) -> bool:
        """Return whether who wants a connection has to wait in line."""
        return self._slots.locked()

    def in_use(self, seconds: float) -> list[Any]:
        """Return the driver's connections that are checked out for so long already."""
        before = monotonic() - seconds
        return [
            record.driver_connection
            for record in self._records
            if record.driver_connection is not None
            and record.record_info is not None
            and record.record_info.get("slot_since", before) < before
        ]

    def cut_off(self, drivers: Iterable[Any]) -> None:
        """End connections that nothing will come by: whoever waits there gets an error at once."""
        for driver in drivers:
<% if cookiecutter.database == "postgresql" %>
            driver.terminate()
<% else %>
            driver.close()
<% endif %>

<% if cookiecutter.database == "postgresql" %>
    async def watch(self) -> None:
        """Look once a second for a server that has fallen silent, and cut its connections off.

        A frozen process does not end them, and a statement may honestly take as long as its time
        limit. So when an answer takes long, the server is asked for another sign of life.
        """
        while True:
            await asyncio.sleep(1)
            addresses = {driver._addr for driver in self.in_use(1)}
            silent = await asyncio.gather(*(is_silent(each, SIGN_LIMIT) for each in addresses))
            for address, is_so in zip(addresses, silent, strict=True):
                if is_so:
                    logger.warning("No sign of %s within %g s", address, SIGN_LIMIT)
                    drivers = [record.driver_connection for record in self._records]
                    self.cut_off(each for each in drivers if each and each._addr == address)

<% endif %>
    async def _acquire_slot(self) -> None:
        """Wait in line. Raises `sqlalchemy.exc.TimeoutError`."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            text = f"No connection was free within {self._timeout} s"
            raise PoolTimeoutError(text) from None

    def _check_out(self) -> PoolProxiedConnection:
        """Take a connection into the slot that the caller has; name what prevents it."""
        try:
            connection = super().connect()
        except MissingGreenlet:
            raise
        except Exception as error:
            # Drivers fail in many ways at a server that goes away while a connection is opened.
            if not isinstance(error, OSError) and error_code(DBAPIError(None, None, error)):
                raise DBAPIError(None, None, error, connection_invalidated=True) from error
            reason = str(error) or type(error).__name__
            raise DatabaseUnavailable(f"The database cannot be reached: {reason}") from error
        # From here on the slot belongs to the connection, until the pool has it back.
        assert connection.record_info is not None
        connection.record_info["slot_since"] = monotonic()
        return connection

    def _create_connection(self) -> ConnectionPoolEntry:
        """Remember what there is."""
        record = super()._create_connection()
        self._records.add(record)
        return record

    def _do_get(self) -> ConnectionPoolEntry:
        """Take a connection; have it replaced when it is closed or still in a transaction.

        Asks the driver, not the server: no round trip, where `pool_pre_ping` takes up to three.
        """
        record = super()._do_get()
        driver: Any = record.driver_connection
<% if cookiecutter.database == "postgresql" %>
        if driver is not None and (driver.is_closed() or driver.is_in_transaction()):
<% else %>
        if driver is not None and (driver._stream_broken or driver.get_transaction_status()):
<% endif %>
            # Marked only: to close it takes a while, in which the record must not be ours alone.
            record.invalidate(soft=True)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        """Take a connection back, and let the first in line have its slot."""
        try:
            super()._do_return_conn(record)
        finally:
            # A check-out that fails gives its record back as well, but its caller keeps the slot.
            assert record.record_info is not None
            if record.record_info.pop("slot_since", None):
                self._slots.release()


def open_in_greenlet(*_: object) -> None:
    """Refuse to open a connection where nothing can wait for it; `acquire` asks again."""
    if not in_greenlet():
        raise MissingGreenlet
