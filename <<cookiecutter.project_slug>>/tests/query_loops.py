"""A test fails when the application reads row after row in a loop (N+1), and names its line.

What counts is what one call of a function reads again and again at one line: by sessions or single
statements, itself, by what it calls, or in tasks that it starts. Loops of tests, fixtures and the
core are not meant. `@pytest.mark.allow_query_loop` lets the application do so in one test.
"""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, ref

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm.unitofwork import UOWTransaction

from app.core.driver import Connection
from app.core.source import frames, path_in_project

# What one call reads more often at one line is a loop.
LIMIT = 2

# Page after page, each of many rows, is none.
READ = re.compile(r"\s*(SELECT|WITH)\b(?!.*\bOFFSET\b|.*[<>].*\bLIMIT\b)", re.I | re.S)

# Reads what it has written, row by row where the server cannot return it.
FLUSH = UOWTransaction.execute.__code__

HERE = path_in_project(__file__)

# The calls that go on, the innermost first, at which line, and how often each has sent what there.
Calls = list[tuple[FrameType, str, int, Counter[tuple[int, object]]]]


@contextmanager
def refusing_query_loops() -> Iterator[None]:
    """Fail the test when the application reads in a loop meanwhile."""
    # Of each task at its last statement, and of those that have started it.
    calls: WeakKeyDictionary[object, Calls] = WeakKeyDictionary()
    starters: WeakKeyDictionary[object, Calls] = WeakKeyDictionary()
    found: dict[str, str] = {}

    def calls_of_now() -> Calls:
        running = asyncio._get_running_loop() and asyncio.current_task()
        task = running or threading.current_thread()
        counts = {frame: counter for frame, _, _, counter in calls.get(task, ())}
        calls[task] = [
            (frame, path, frame.f_lineno, counts.get(frame, Counter()))
            for frame in frames()
            if (path := path_in_project(frame.f_code.co_filename)) and path != HERE
        ]
        calls[task] += starters.get(task, ())
        return calls[task]

    def count(statement: object, sql: object) -> None:
        # The innermost call that goes on while others come and go has the loop.
        for _, path, line, counter in calls_of_now():
            counter[line, statement] += 1
            if counter[line, statement] > LIMIT:
                flush = any(each.f_code is FLUSH for each in frames())
                if is_application(path) and READ.match(str(sql)) and not flush:
                    found[f"{path}:{line}"] = " ".join(str(sql).split())
                return

    def count_and_run(connection: Any, statement: Any, values: Any) -> Any:
        count(ref(statement), statement.statement)
        return run(connection, statement, values)

    def create_and_note_task(loop: Any, coroutine: Any, **options: Any) -> Any:
        task, starter = create_task(loop, coroutine, **options), calls_of_now()
        if starter and is_application(starter[0][1]):
            starters[task] = starter
        return task

    def count_of_session(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        count(sql, sql)

    run, create_task = Connection.run, asyncio.BaseEventLoop.create_task
    event.listen(Engine, "before_cursor_execute", count_of_session)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "run", count_and_run)
            patch.setattr(asyncio.BaseEventLoop, "create_task", create_and_note_task)
            yield
    finally:
        event.remove(Engine, "before_cursor_execute", count_of_session)
    if found:
        lines = [f"{place} reads in a loop: {sql}" for place, sql in found.items()]
        advice = "Read all at once, or mark the test: @pytest.mark.allow_query_loop"
        pytest.fail("\n".join([*lines, advice]), pytrace=False)


def is_application(path: str) -> bool:
    """Return whether a file is the service's own."""
    return path.startswith("app/") and not path.startswith("app/core/")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    mark = "allow_query_loop: the application may read in a loop in this test."
    config.addinivalue_line("markers", mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Look at what a test does, not at its fixtures."""
    if item.get_closest_marker("allow_query_loop"):
        return (yield)
    with refusing_query_loops():
        return (yield)
