"""SQLAlchemy's pool, with a line in front of it."""

<% if cookiecutter.database == "postgresql" %>
import asyncio
<% endif %>
import logging
from collections.abc import Iterable
<% if cookiecutter.database == "postgresql" %>
from itertools import compress
<% endif %>
from time import monotonic
from typing import Any
from weakref import WeakSet

from sqlalchemy.exc import DBAPIError, MissingGreenlet
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util.concurrency import await_, greenlet_spawn

<% if cookiecutter.database == "postgresql" %>
from .connect import is_silent
from .server_errors import DatabaseUnavailable, error_code, forget_first_error
from .slots import Slots

logger = logging.getLogger(__name__)

# Seconds within which a server gives a sign of life.
SIGN_LIMIT = 3.0
<% else %>
from .server_errors import DatabaseUnavailable, error_code, forget_first_error
from .slots import Slots
<% endif %>

# Seconds in which a connection goes from hand to hand at most. Then the pool looks at it again, and
# replaces it when its time is over.
HAND_OVER_LIMIT = 1.0

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
        self.slots = Slots(pool_size + max_overflow)
        self._records = WeakSet[ConnectionPoolEntry]()

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out, for SQLAlchemy: engines and sessions come by this way."""
        asked = monotonic()
        slot = await_(self.slots.acquire(self._timeout))
        if not isinstance(slot, bool):
            return note_holder(slot, asked)
        if not slot:
            raise self._refusal()
        try:
            return self._check_out(asked)
        except BaseException:
            self.slots.release()
            raise

    async def acquire(self) -> PoolProxiedConnection:
        """Check a connection out, to be released.

        As `connect()` does it, but without the greenlet in which SQLAlchemy waits, which costs
        more than the rest. Raises `sqlalchemy.exc.TimeoutError` when none is free in time, and
        DBAPIError or DatabaseUnavailable when none can be opened.
        """
        asked = monotonic()
        slot = await self.slots.acquire(self._timeout)
        if not isinstance(slot, bool):
            return note_holder(slot, asked)
        if not slot:
            raise self._refusal()
        try:
            # The usual case, in which nothing has to be waited for: one is open.
            if self.checkedin():
                try:
                    return self._check_out(asked)
                except MissingGreenlet:
                    pass
            return await greenlet_spawn(self._check_out, asked)
        except BaseException:
            self.slots.release()
            raise

    async def release(self, connection: PoolProxiedConnection) -> None:
        """Check a connection in, or hand it over to the first in line, which is much cheaper."""
        if self._may_be_handed_over(connection):
            self._tell_use(connection.record_info)
            self.slots.release(connection)
        elif self._max_overflow == 0 or self.checkedin() < self.size():
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
        return self.slots.all_taken

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
    async def cut_off_silent(self, addresses: set[Any]) -> None:
        """Ask the servers at these addresses; cut the connections to those that stay silent.

        A frozen process does not end its connections, and a statement may honestly take as long as
        its time limit. So when an answer takes long, the server is asked for another sign of life.
        """
        silent = await asyncio.gather(*(is_silent(each, SIGN_LIMIT) for each in addresses))
        for address in compress(addresses, silent):
            logger.warning("No sign of %s within %g s", address, SIGN_LIMIT)
            drivers = [record.driver_connection for record in self._records]
            self.cut_off(each for each in drivers if each is not None and each._addr == address)

<% endif %>
    def _refusal(self) -> PoolTimeoutError:
        return PoolTimeoutError(f"No connection was free within {self._timeout} s")

    def _may_be_handed_over(self, connection: PoolProxiedConnection) -> bool:
        """Return whether somebody else may have a connection as it is, past the pool."""
        driver, info = connection.driver_connection, connection.record_info
        return (
            # Else it may be one too many when nobody wants it, and to close that takes a wait.
            self._max_overflow == 0
            and driver is not None
            and is_idle(driver)
            and info is not None
            and monotonic() < info["checked_out"] + HAND_OVER_LIMIT
            # Who listens hears of everybody who has it.
            and not self.dispatch.checkout
            and not self.dispatch.checkin
        )

    def _tell_use(self, info: Any) -> None:
        """Tell who wants to hear it, once, how long somebody waited for a connection and had it."""
        waited = info.pop("waited", None)
        if waited is not None:
            self.slots.on_use(waited, monotonic() - info["slot_since"])

    def _check_out(self, asked: float) -> PoolProxiedConnection:
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
        assert connection.record_info is not None
        connection.record_info["checked_out"] = monotonic()
        return note_holder(connection, asked)

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
        if driver is not None and not is_idle(driver):
            # Marked only: to close it takes a while, in which the record must not be ours alone.
            record.invalidate(soft=True)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        """Take a connection back, and let the first in line have its slot."""
        driver: Any = record.driver_connection
        # Nobody would end its transaction, which may hold locks: so the server does.
<% if cookiecutter.database == "postgresql" %>
        if driver is not None and not driver.is_closed() and driver.is_in_transaction():
<% else %>
        if driver is not None and driver.get_transaction_status():
<% endif %>
            self.cut_off([driver])
        forget_first_error(record)
        try:
            super()._do_return_conn(record)
        finally:
            # A check-out that fails gives its record back as well, but its caller keeps the slot.
            assert record.record_info is not None
            self._tell_use(record.record_info)
            if record.record_info.pop("slot_since", None):
                self.slots.release()


<% if cookiecutter.database == "postgresql" %>
def is_idle(driver: Any) -> bool:
    """Return whether a connection is open and in no transaction. It is not asked itself."""
    return not driver.is_closed() and not driver.is_in_transaction()
<% else %>
def is_idle(driver: Any) -> bool:
    """Return whether a connection is open and in no transaction. It is not asked itself.

    Nor will its next statement begin one, as after somebody's `SET autocommit = 0`.
    """
    busy = driver._stream_broken or driver.get_transaction_status()
    return not busy and driver.get_autocommit()
<% endif %>


def note_holder(connection: PoolProxiedConnection, asked: float) -> PoolProxiedConnection:
    """Note since when somebody has a connection, and with it its slot, and waited for it."""
    info = connection.record_info
    assert info is not None
    info["slot_since"] = now = monotonic()
    info["waited"] = now - asked
    return connection
