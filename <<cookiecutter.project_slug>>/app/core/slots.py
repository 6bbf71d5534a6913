"""The line in front of a pool: so many slots, and who waits for one."""

import asyncio
import math
from collections import deque
from collections.abc import Callable

from sqlalchemy.pool import PoolProxiedConnection

# The right to have a connection, with the one that its holder before has handed over, if any. False
# is none.
Slot = bool | PoolProxiedConnection


class Slots:
    """So many slots for those who ask; without a free one they wait: first come, first served.

    As `asyncio.Semaphore` within an `asyncio.timeout`, but with one timer for the whole line: one
    for each waiter takes longer than the rest of a checkout.
    """

    def __init__(self, size: int) -> None:
        self.size = self._free = size
        # How often somebody was refused, and who hears of it, with the seconds that it took.
        self.timeouts = 0
        self.on_timeout: Callable[[float], None] = lambda seconds: None
        # Who hears how many seconds somebody has waited for a connection, and then had it.
        self.on_use: Callable[[float, float], None] = lambda waited, used: None
        self._line: deque[tuple[asyncio.Future[Slot], float]] = deque()
        # When somebody is next refused. (Of uvloop's timers not all can say for when they are.)
        self._due = math.inf

    @property
    def all_taken(self) -> bool:
        """Return whether who asks now has to wait."""
        return not self._free

    @property
    def waiting(self) -> int:
        """Return how many stand in line."""
        return sum(not waiter.done() for waiter, _ in list(self._line))

    async def acquire(self, timeout: float) -> Slot:
        """Wait for a slot, for so many seconds, the same for all. Return False if none was free."""
        if self._free:
            self._free -= 1
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Slot] = loop.create_future()
        deadline = loop.time() + timeout
        self._line.append((waiter, deadline))
        if deadline < self._due:
            self._due = deadline
            loop.call_at(deadline, self._refuse_late, loop)
        try:
            given = await waiter
        except asyncio.CancelledError:
            # It was given a slot in the same turn.
            if not waiter.cancelled() and (given := waiter.result()):
                self.release(given)
            raise
        if not given:
            self.on_timeout(timeout)
        return given

    def release(self, slot: Slot = True) -> None:
        """Give a slot to the first in line, and a connection with it."""
        while self._line:
            waiter, _ = self._line.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        if isinstance(slot, bool):
            self._free += 1
        else:
            # Nobody wants it: it goes back to its pool, and that releases the slot.
            slot.close()

    def _refuse_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse those whose time is over, and come back for the next."""
        while self._line and (self._line[0][0].done() or self._line[0][1] <= loop.time()):
            waiter, _ = self._line.popleft()
            if not waiter.done():
                waiter.set_result(False)
                self.timeouts += 1
        self._due = self._line[0][1] if self._line else math.inf
        if self._line:
            loop.call_at(self._due, self._refuse_late, loop)
