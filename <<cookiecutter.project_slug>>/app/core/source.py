"""Which line of the application is at work: for statements in the log, and for tests."""

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType

from greenlet import getcurrent  # type: ignore[import-untyped]

CORE = Path(__file__).parent
PROJECT = CORE.parent.parent


def frames() -> Iterator[FrameType]:
    """Yield the frames of who asks and of all callers, from the inside to the outside.

    SQLAlchemy runs a session's statements in a greenlet: who awaits them is in its parent.
    """
    frame: FrameType | None = sys._getframe(1)
    greenlet = getcurrent()
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        greenlet = greenlet.parent
        if greenlet is None:
            return
        frame = greenlet.gr_frame


@cache
def path_in_project(file: str) -> str | None:
    """Return the path of a file of the project, and None for one of a library."""
    path = Path(file)
    if "site-packages" in path.parts or not path.is_relative_to(PROJECT):
        return None
    return path.relative_to(PROJECT).as_posix()


def source_line() -> str | None:
    """Return the line that has asked for what runs, such as `app/api/users.py:42`.

    It is the innermost that is neither the core's nor a library's. None where there is none, as
    at a commit after a route, and in a task that begins in the core: `gather(queries.first(…))`.
    """
    for frame in frames():
        code = frame.f_code
        path = path_in_project(code.co_filename)
        if path is None or path.startswith("app/core/"):
            continue
        # A middleware only hands the request on.
        if code.co_varnames[1:4] != ("scope", "receive", "send"):
            return f"{path}:{frame.f_lineno}"
    return None
