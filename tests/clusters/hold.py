"""Runs a program and ends it when standard input closes, however the process that asked ends.

`python hold.py SIGNAL IDENTITY PROGRAM ARGUMENT…` prints the program's process id. It is ended by
that signal, or killed when it takes longer than `LIMIT` seconds. The identity is in JSON: who runs
it, for `subprocess`.
"""

import json
import subprocess
import sys
import threading
from typing import Any

LIMIT = 20


def hold(stop: int, identity: dict[str, Any], command: list[str]) -> int:
    """Run a command until it ends, or standard input does; return its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, **identity)
    print(process.pid, flush=True)

    def end() -> None:
        sys.stdin.read()
        process.send_signal(stop)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=end, daemon=True).start()
    return process.wait()


if __name__ == "__main__":
    sys.exit(hold(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]))
