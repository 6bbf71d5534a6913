"""What happens between SIGTERM and the end."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastapi import FastAPI

# Seconds between SIGTERM and the end of listening, in which readiness says 503: whoever hands out
# the requests learns of it before it would meet a closed port.
DRAIN = 2.0


@contextmanager
def draining_on_sigterm(app: FastAPI) -> Iterator[None]:
    """Set `app.state.draining` at SIGTERM, and let the web server's own handler follow later."""
    app.state.draining = False
    if threading.current_thread() is not threading.main_thread():
        # Signals are the main thread's.
        yield
        return
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: FrameType | None) -> None:
        app.state.draining = True
        if callable(stop):
            loop.call_soon_threadsafe(loop.call_later, DRAIN, stop, number, frame)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)
