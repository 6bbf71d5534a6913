"""A unit of work is run again when it lost a conflict with another, if nothing of it is stored."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session

from .server_errors import is_begun, is_conflict

T = TypeVar("T")

# A unit of work is run this often at most; before each new run it waits, at random, up to this
# many seconds, and twice as many each time, so that two that collided do not meet again.
ATTEMPTS = 5
BACKOFF = 0.02


class Opened:
    """That a session is open, or the like: of one task, and no longer than that.

    A stream whose client has hung up is not told. It is left to the garbage collector, with the
    connection that it has, for who knows how long.
    """

    def __init__(self, end: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Remember how to end it when its task is over."""
        self.outer: Opened | None = innermost_open()
        self.task = asyncio.current_task()
        self._end = end
        if self.task is not None:
            self.task.add_done_callback(self._outlive)
        _innermost.set(self)

    def close(self) -> None:
        """Say that it is over."""
        if self.task is not None:
            self.task.remove_done_callback(self._outlive)
        self.task = None

    def _outlive(self, _: object) -> None:
        self.close()
        ending = asyncio.create_task(self._end())
        endings.add(ending)
        ending.add_done_callback(endings.discard)


# What hears of each new run, and of the error of the last.
on_retry: list[Callable[[Exception], None]] = []

# What is being ended after its task.
endings: set[asyncio.Task[Any]] = set()

_innermost: ContextVar[Opened | None] = ContextVar("innermost", default=None)


def innermost_open() -> Opened | None:
    """Return the last of what this task has open."""
    opened, task = _innermost.get(), asyncio.current_task()
    while opened is not None and opened.task is not task:
        opened = opened.outer
    return opened


# What the unit of work that is run has committed before its end.
_committed: ContextVar[list[bool]] = ContextVar("committed")


def note_commit() -> None:
    """Say that something was committed: the unit of work it is in cannot be run again."""
    _committed.get([]).append(True)


def note_write(session: Session, _: object = None) -> None:
    """Remember that a session has written, which with autocommit is committed at once."""
    session.info["wrote"] = True
    if not is_begun(session.connection()):
        note_commit_of(session)


def note_statement(state: ORMExecuteState) -> None:
    """Remember that a session may have written."""
    if not state.is_select:
        note_write(state.session)


def note_commit_of(session: Session) -> None:
    """Say that a session has committed, at its end or before."""
    if not session.in_nested_transaction():
        session.info["committed"] = True
        if session.info.pop("wrote", False):
            note_commit()


def listen_to_commits(sessions: Any) -> None:
    """Hear of what sessions of a class, or made by a factory, commit."""
    event.listen(sessions, "after_flush", note_write)
    event.listen(sessions, "do_orm_execute", note_statement)
    event.listen(sessions, "after_commit", note_commit_of)


async def retry_conflicts(
    unit: Callable[[], Awaitable[T]], *, repeatable: Callable[[], bool] = lambda: True
) -> T:
    """Run a whole unit of work, and again when it lost a conflict with another.

    `unit` begins its own transaction each time, as in `async with database.session()`. Raises
    what the last of `ATTEMPTS` runs raised, or the run after which `repeatable` says no, or that
    had committed something before: it would be stored twice.
    """
    committed: list[bool] = []
    outside = _committed.set(committed), _innermost.set(None)
    try:
        for attempt in range(ATTEMPTS - 1):
            try:
                return await unit()
            except Exception as error:
                if not is_conflict(error) or committed or not repeatable():
                    raise
                for listener in on_retry:
                    listener(error)
            await asyncio.sleep(random.uniform(0, BACKOFF * 2**attempt))
        return await unit()
    finally:
        _committed.reset(outside[0])
        _innermost.reset(outside[1])
        if committed:
            note_commit()
