"""A process that holds a database server and ends it when its standard input closes.

Standard input closes when the process that asked for the server ends, however it ends: so nothing
is left behind, not even after SIGKILL.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from dev import server

# The exit code when the machine has no server: `EX_UNAVAILABLE` of sysexits.h.
NO_SERVER = 69

# Seconds; a server on a busy machine starts in one to three.
START_LIMIT = 60
STOP_LIMIT = 30


def acquire(lock: TextIO) -> bool:
    """Acquire a lock if it is free; return whether it was."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def announce(url: str, *, shared: bool = False) -> None:
    """Say where the server is, and wait until nobody wants it any more."""
    print(json.dumps({"url": url, "shared": shared}), flush=True)
    sys.stdin.read()


def stop(process: subprocess.Popen[bytes], throwaway: bool) -> None:
    """End the server, in order where its data last."""
    if process.poll() is None:
        process.send_signal(server.STOP_THROWAWAY if throwaway else server.STOP)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(program: Path, data: Path, sockets: Path, throwaway: bool, cleanup: ExitStack) -> None:
    """Start the server, and fill its data folder first if there is none yet."""
    program = server.reachable(program, sockets)
    if not data.exists():
        # Under another name first: a data folder that stands is a whole one.
        unfinished = data.with_name(f"{data.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        server.own(unfinished)
        server.initialize(program, unfinished)
        unfinished.rename(data)
    log = sockets / "log"
    process = subprocess.Popen(
        server.command(program, data, sockets, throwaway),
        stdin=subprocess.DEVNULL,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        cwd="/",
        **server.identity(),
    )
    cleanup.callback(stop, process, throwaway)
    deadline = time.monotonic() + START_LIMIT
    while not server.is_ready(program, sockets):
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"The server does not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.02)


def supervise(project: Path | None) -> None:
    """Run a throwaway server, or the one of a project whose data last.

    Where a project's server runs already, its URL is given out. Raises RuntimeError when the
    server does not start, and FileNotFoundError when there is none on the machine.
    """
    program = server.find()
    with ExitStack() as cleanup:
        # The path of a socket may have some hundred bytes at most: a short one, whatever TMPDIR.
        sockets = Path(tempfile.mkdtemp(prefix="db-", dir="/tmp"))
        cleanup.callback(shutil.rmtree, sockets, ignore_errors=True)
        server.own(sockets)
        if project is None:
            run(program, sockets / "data", sockets, True, cleanup)
            announce(server.url(sockets))
            return
        folder = server.data_folder(project)
        folder.mkdir(exist_ok=True)
        server.own(folder)
        lock = cleanup.enter_context((folder / "lock").open("w"))
        url = folder / "url"
        url.touch()
        # While another process has it, its server is starting, up, or ending, each in its time.
        while not acquire(lock):
            if where := url.read_text():
                announce(where, shared=True)
                return
            time.sleep(0.02)
        url.write_text("")
        run(program, folder / "data", sockets, False, cleanup)
        cleanup.callback(url.write_text, "")
        url.write_text(server.url(sockets))
        announce(server.url(sockets))


def leave(_: int, __: FrameType | None) -> None:
    """End in order when asked to by a signal."""
    raise SystemExit


if __name__ == "__main__":
    # A Ctrl-C is for the process that asked for the server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    os.umask(0o077)
    try:
        supervise(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except FileNotFoundError as reason:
        print(reason, file=sys.stderr)
        sys.exit(NO_SERVER)
    except (OSError, RuntimeError) as reason:
        sys.exit(str(reason))
    except subprocess.CalledProcessError as failure:
        sys.exit(f"The server's data folder cannot be made:\n{failure.stderr}")
