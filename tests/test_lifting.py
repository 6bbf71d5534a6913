"""`db.py` and `deps.py` move an old synchronous service to async, by the README's own steps.

What is between the README's fences is run and written as it stands there.
"""

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    DATABASES,
    TEMPLATE,
    Service,
    environment,
    free_port,
    generate,
    own_server,
    run,
)

OLD = TEMPLATE / "tests" / "old_service"
OLD_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
OLD_NEEDS = {"postgresql": "psycopg[binary]", "mysql": "pymysql"}
NEW_DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}

# Connections of the old engine and of the new one.
OLD_POOL = 5 + 5
NEW_POOL = 10

COUNT = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mysql": "SELECT count(*) - 1 FROM information_schema.processlist WHERE db = DATABASE()",
}
# Watches how many connections a service has, until told to stop.
WATCH = """
import asyncio, sys
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

async def watch(url, query):
    most = 0
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        print("ready", flush=True)
        while not stop.done():
            most = max(most, await connection.scalar(text(query)))
            await asyncio.sleep(0.01)
    await engine.dispose()
    print(most)

asyncio.run(watch(*sys.argv[1:]))
"""


def steps() -> str:
    """Return the README's section."""
    _, _, rest = (TEMPLATE / "README.md").read_text().partition("\n## Adopting db.py")
    section, _, _ = rest.partition("\n## ")
    return section


def fences(kind: str) -> list[str]:
    """Return what is between the fences of a language, without its indentation."""
    found = re.findall(rf"^   ```{kind}\n(.*?)^   ```$", steps(), re.MULTILINE | re.DOTALL)
    return [re.sub("^   ", "", block, flags=re.MULTILINE) for block in found]


class Old:
    """A copy of the old service in an environment of its own."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.database = service.project.parent.name
        self.folder = folder / "old"
        self.service = service
        shutil.copytree(OLD, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        run("uv", "venv", "--quiet", cwd=self.folder)
        self.install("fastapi", "uvicorn", "sqlalchemy", OLD_NEEDS[self.database])

    def install(self, *packages: str) -> None:
        """Do what `pip install` does."""
        run("uv", "pip", "install", "--quiet", *packages, cwd=self.folder)

    def follow(self, block: str) -> None:
        """Type the commands of a block, for this database."""
        for line in block.splitlines():
            command, _, comment = line.removeprefix("$ ").partition("  # ")
            if comment and self.database not in comment.lower():
                continue
            words = shlex.split(command)
            if words[0] == "cookiecutter":
                answers = [word.replace(DATABASES[0], self.database) for word in words[3:]]
                generate(self.folder, *answers)
            elif words[:2] == ["pip", "install"]:
                self.install(*words[2:])
            else:
                run(*words, cwd=self.folder)

    def write(self, block: str) -> None:
        """Write a file whose name is in the block's first line."""
        name, text = block.removeprefix("# ").split("\n", 1)
        text = text.replace(NEW_DRIVERS["postgresql"], NEW_DRIVERS[self.database])
        (self.folder / name).write_text(text)

    @contextmanager
    def running(self, url: str) -> Iterator[int]:
        """Run the service; give its port."""
        port = free_port()
        old_url = url.replace(NEW_DRIVERS[self.database], OLD_DRIVERS[self.database])
        words = [".venv/bin/python", "-m", "uvicorn", "shop.main:app", "--port", str(port)]
        with (
            (self.folder / "log.txt").open("w") as log,
            subprocess.Popen(
                [*words, "--no-access-log"],
                cwd=self.folder,
                env=environment(DATABASE_URL=old_url),
                stdout=log,
                stderr=log,
            ) as uvicorn,
        ):
            try:
                while "running on http" not in (self.folder / "log.txt").read_text():
                    assert uvicorn.poll() is None, (self.folder / "log.txt").read_text()
                    time.sleep(0.05)
                yield port
            finally:
                uvicorn.terminate()

    @contextmanager
    def watching(self, url: str) -> Iterator[Callable[[], int]]:
        """Watch the service's connections; give a way to stop, and how many it had at most."""
        python = self.service.project / ".venv/bin/python"
        words = [str(python), "-c", WATCH, url, COUNT[self.database]]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "ready\n"
            yield lambda: int(watcher.communicate()[0])


class Client(HTTPConnection):
    """Asks on one connection, as fast as it is answered."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Return the status and the body."""
        self.request(method, path)
        response = self.getresponse()
        return response.status, json.load(response)


def ask(port: int, method: str, path: str) -> tuple[int, Any]:
    """Make one request."""
    with closing(Client(port)) as client:
        return client.ask(method, path)


@pytest.fixture
def old(service: Service, tmp_path: Path) -> Old:
    """Return a copy of the old service."""
    return Old(tmp_path, service)


names = count()


def use_authors(port: int) -> set[int]:
    """Create authors and read each; return the statuses."""
    statuses = set()
    with closing(Client(port)) as client:
        for _ in range(10):
            name = f"a{next(names)}"
            created, author = client.ask("POST", f"/authors?name={name}")
            read, found = client.ask("GET", f"/authors/{author['id']}")
            assert found == {"name": name, "books": []}
            statuses |= {created, read}
    return statuses


def use_books(port: int) -> set[int]:
    """Create books of the first author and list them; return the statuses."""
    requests = [("POST", "/books?title=t&author_id=1"), ("GET", "/books?author=first")] * 5
    with closing(Client(port)) as client:
        return {client.ask(*request)[0] for request in requests}


def test_the_old_service_is_the_one_of_the_readme() -> None:
    _, before, after = fences("python")
    name, text = before.removeprefix("# ").split("\n", 1)
    assert (OLD / name).read_text() == text
    assert after.startswith(f"# {name}\n")


def test_two_files_move_an_old_service(old: Old) -> None:
    with own_server(old.service.project) as url:
        with old.running(url) as port:
            assert ask(port, "POST", "/authors?name=first")[0] == 201
            assert use_books(port) == {200, 201}

        take, install, _ = fences("console")
        main, _, authors = fences("python")
        old.follow(take)
        old.follow(install)
        old.write(main)
        old.write(authors)
        names = ["db", "deps", "connect", "pool", "slots", "retries", "server_errors"]
        names += ["values"] * (old.database == "mysql")
        taken = [old.folder / f"my-service/app/core/{name}.py" for name in names]
        assert [(old.folder / "shop" / path.name).read_text() for path in taken] == [
            path.read_text() for path in taken
        ]

        with old.running(url) as port, old.watching(url) as stop, ThreadPoolExecutor(64) as clients:
            moved = [clients.submit(use_authors, port) for _ in range(48)]
            left = [clients.submit(use_books, port) for _ in range(8)]
            assert {status for used in moved for status in used.result()} == {200, 201}
            assert {status for used in left for status in used.result()} == {200, 201}
            assert NEW_POOL < stop() <= OLD_POOL + NEW_POOL
            first = {"name": "first", "books": ["t"] * 45}
            assert ask(port, "GET", "/authors/1") == (200, first)


def test_its_errors_move_as_well(old: Old) -> None:
    with own_server(old.service.project) as url:
        take, install, errors = fences("console")
        main, _, authors = fences("python")
        old.follow(take)
        old.follow(install)
        old.follow(errors)
        old.write(main.replace("import authors, books", "import authors, books, errors"))
        with (old.folder / "shop/main.py").open("a") as file:
            file.write("errors.add_error_handlers(app)\n")
        old.write(authors)
        with old.running(url) as port:
            statuses = [ask(port, "POST", "/authors?name=twice")[0] for _ in range(2)]
            assert statuses == [201, 409]
            # Rolled back, and nobody's connection is the worse for it.
            assert use_authors(port) == {200, 201}
