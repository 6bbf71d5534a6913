"""Runs a service's database server, as production's is run, and starts it again when it dies.

`python keeper.py FOLDER OPTION…`, in a generated project. Prints a line of JSON at every start;
ends the server when standard input closes.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from dev import server


def keep(folder: Path, options: list[str]) -> None:
    """Keep the server up until standard input closes."""
    program = server.reachable(server.find(), folder)
    data = folder / "data"
    data.mkdir()
    server.own(data)
    server.initialize(program, data)
    reader = threading.Thread(target=sys.stdin.read, daemon=True)
    reader.start()
    while reader.is_alive():
        process = subprocess.Popen(
            [*server.command(program, data, folder, False), *options],
            stdin=subprocess.DEVNULL,
            stdout=(folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            cwd="/",
            **server.identity(),
        )
        while not server.is_ready(program, folder) and process.poll() is None:
            time.sleep(0.02)
        print(json.dumps({"url": server.url(folder), "pid": process.pid}), flush=True)
        while process.poll() is None and reader.is_alive():
            time.sleep(0.02)
    process.send_signal(server.STOP)
    process.wait(30)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2:])
