"""`make dev` and the servers behind it and behind the tests: real shells, signals, odd machines."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from conftest import (
    START,
    Render,
    Service,
    Variant,
    copy_service,
    environment,
    free_port,
    own_server,
    passed,
    python,
    run,
)

Copy = Callable[[Path], Path]

# Seconds; the slowest of these is a server that ends in order on a busy machine.
LIMIT = 30


@pytest.fixture
def copy(service: Service) -> Iterator[Copy]:
    """Return a way to copy the service, with its virtual environment, into a folder."""
    copies: list[Path] = []

    def copy(folder: Path) -> Path:
        copies.append(copy_service(service, folder / "my-service"))
        return copies[-1]

    yield copy
    for project in copies:
        # Not in the project where the server's user cannot get there.
        data = data_folder(project)
        assert until(partial(is_unused, data))
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def project(copy: Copy, tmp_path: Path) -> Path:
    """Return a copy of the service in a folder that is closed to all other users."""
    assert tmp_path.parent.stat().st_mode & 0o077 == 0
    return copy(tmp_path)


def data_folder(project: Path) -> Path:
    """Return where a project's data of development last."""
    code = "from pathlib import Path; from dev import server; print(server.data_folder(Path.cwd()))"
    return Path(python(project, "-c", code).strip())


def socket_folder(text: str) -> Path:
    """Return the folder of a server's socket, which a URL names."""
    found = re.search(r"(?:/|%2F)(db-\w+)", text)
    assert found is not None, text
    return Path("/tmp", found[1])


def is_unused(folder: Path) -> bool:
    """Return whether no process names a folder in its command."""
    return str(folder) not in run("ps", "-eo", "args=", "-ww", cwd=Path("/")).stdout


def is_gone(sockets: Path) -> bool:
    """Return whether nothing is left of a server."""
    return not sockets.exists() and is_unused(sockets)


def until(condition: Callable[[], object]) -> bool:
    """Return whether a condition came true in time."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def ask(url: str, body: object = None) -> Any:
    """Make a request, a POST with a body; return the answer's JSON. Raises URLError."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=5) as answer:
        return json.load(answer)


def is_ready(url: str) -> bool:
    """Return whether a service says that it is ready."""
    try:
        return bool(ask(f"{url}/health/ready"))
    except (URLError, OSError):
        return False


@contextmanager
def developing(project: Path, port: int) -> Iterator[str]:
    """Run `make dev` until Ctrl-C; give its address."""
    log = project.parent / "make-dev.log"
    with log.open("wb") as file:
        make = subprocess.Popen(
            ["make", "dev", f"PORT={port}"],
            cwd=project,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        assert until(lambda: make.poll() is not None or is_ready(url))
        assert make.poll() is None, log.read_text()
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(make.pid, signal.SIGINT)
        make.wait(LIMIT)
    assert "Traceback" not in log.read_text(), log.read_text()


def test_make_dev(project: Path) -> None:
    port = free_port()
    with developing(project, port) as url:
        user = ask(f"{url}/users", {"email": "a@example.com"})
        look = "SELECT email, 6 * 7 FROM users;\n"
        said = run("make", "shell", cwd=project, typed=look).stdout
        assert re.search(r"a@example\.com\W+42\b", said)

        said = run("make", "dev", f"PORT={port}", cwd=project, code=2).stdout
        assert f"Port {port} cannot be used" in said
        assert "make dev PORT=8001" in said
        said = run("make", "dev", f"PORT={free_port()}", cwd=project, code=2).stdout
        assert "`make dev` is already running for this project" in said

        main = project / "app" / "main.py"
        main.write_text(main.read_text().replace('title="My Service"', 'title="Changed"'))
        assert until(
            lambda: is_ready(url) and ask(f"{url}/openapi.json")["info"]["title"] == "Changed"
        )
        first = socket_folder((data_folder(project) / "url").read_text())

    # At once: the first may still be ending.
    with developing(project, port) as url:
        assert ask(f"{url}/users")["items"] == [user]
        second = socket_folder((data_folder(project) / "url").read_text())

    assert first != second
    assert until(lambda: is_gone(first) and is_gone(second))
    assert is_unused(project)


@pytest.mark.parametrize("dev_runs", [True, False], ids=["beside make dev", "alone"])
def test_a_migration_from_the_models(dev_runs: bool, open_folder: Path, copy: Copy) -> None:
    project = copy(open_folder)
    assert data_folder(project) == project / ".dev-database"
    versions = project / "migrations" / "versions"
    before = set(versions.glob("*.py"))
    with developing(project, free_port()) if dev_runs else nullcontext() as url:
        model = project / "app" / "models" / "user.py"
        [created_at] = re.findall(r"(DateTime\(timezone=True\)|UTCDateTime),", model.read_text())
        with model.open("a") as file:
            file.write("    nickname: Mapped[str | None] = mapped_column(String(50))\n")
            file.write(f"    seen_at: Mapped[datetime | None] = mapped_column({created_at})\n")

        run("make", "revision", "m=add nickname", cwd=project)
        run("make", "migrate", cwd=project)
        said = python(project, *"-m dev run alembic check".split())
        assert "No new upgrade operations detected" in said
        if url:
            assert until(lambda: is_ready(url))
            assert ask(f"{url}/users", {"email": "a@example.com"})["id"] == 1
        model.write_text(model.read_text().replace("String(50))", "String(50), index=True)"))
        run("make", "revision", "m=index nickname", cwd=project)

    new = sorted(set(versions.glob("*.py")) - before)
    # MySQL's revisions change the schema once each.
    names = (
        ["add", "index"] if created_at != "UTCDateTime" else ["1_of_2_add", "2_of_2_add", "index"]
    )
    for path, name in zip(new, names, strict=True):
        assert re.fullmatch(rf"20\d{{6}}_\d{{6}}_{name}_nickname\.py", path.name)
        assert path.name > max(path.name for path in before)
    for check in "ruff check", "ruff format --check", *(["mypy"] if dev_runs else []):
        python(project, "-m", *check.split(), *map(str, new))


def test_without_make(project: Path) -> None:
    """The database is named in `.env`, and so `make migrate` takes it as well."""
    with own_server(project) as url:
        (project / ".env").write_text(f"DATABASE_URL={url}\n")
        run("uv", "run", "alembic", "upgrade", "head", cwd=project)
        run("make", "migrate", cwd=project)
        said = run("make", "shell", cwd=project, typed="SELECT 6 * 7, count(*) FROM users;\n")
        assert re.search(r"\b42\W+0\b", said.stdout)
        run("uv", "run", "pytest", "tests/test_users.py", cwd=project)
        port = str(free_port())
        words = ["uv", "run", "uvicorn", "app.main:app", "--port", port]
        with subprocess.Popen(words, cwd=project, env=environment()) as uvicorn:
            assert until(lambda: uvicorn.poll() is not None or is_ready(f"http://127.0.0.1:{port}"))
            assert ask(f"http://127.0.0.1:{port}/users")["items"] == []
            uvicorn.terminate()
    assert not data_folder(project).exists()


def test_a_migration_leaves_a_named_database_as_it_is(project: Path) -> None:
    """It may be production's."""
    with own_server(project) as url:
        (project / ".env").write_text(f"DATABASE_URL={url}\n")
        said = run("make", "revision", "m=add x", cwd=project, code=2).stdout
        assert "Target database is not up to date" in said
        run("make", "migrate", cwd=project)
        run("make", "revision", "m=add x", cwd=project)


def test_what_cannot_be_written_is_named_in_one_line(project: Path) -> None:
    """As in a checkout that is read only, where the tests run all the same; root may write it."""
    data = data_folder(project)
    data.write_text("in the way")
    said = python(project, "-m", "dev", "run", "alembic", "current", code=1)
    data.unlink()
    assert str(data) in said
    assert len(said.splitlines()) == 1

    (project / ".pytest_cache").write_text("in the way")
    assert "2 passed" in python(project, *"-m pytest -n 0 tests/core/test_openapi.py".split())


def test_a_migration_needs_words(service: Service) -> None:
    said = run("make", "revision", cwd=service.project, code=2).stdout
    assert 'Say what it does: make revision m="add x"' in said


ENDS = {
    "exit": (0, ""),
    "exception": (1, "raise RuntimeError"),
    "SIGINT": (-2, "os.kill(os.getpid(), signal.SIGINT)"),
    "SIGTERM": (-15, "os.kill(os.getpid(), signal.SIGTERM)"),
    "SIGKILL": (-9, "os.kill(os.getpid(), signal.SIGKILL)"),
}


@pytest.mark.parametrize(("code", "end"), ENDS.values(), ids=ENDS.keys())
def test_a_throwaway_server_ends_with_who_asked_for_it(
    code: int, end: str, service: Service
) -> None:
    said = python(service.project, "-c", f"{START}\n{end}\ntime.sleep(0)", code=code)
    assert until(lambda: is_gone(socket_folder(said)))


def test_a_throwaway_server_ends_when_who_asked_is_killed_meanwhile(service: Service) -> None:
    program = service.project / ".venv/bin/python"
    with subprocess.Popen([program, "-c", START], cwd=service.project, env=environment()) as asker:
        children = ["ps", "-o", "pid=", "--ppid", str(asker.pid)]
        assert until(lambda: subprocess.run(children, capture_output=True).returncode == 0)
        [supervisor] = map(int, run(*children, cwd=Path("/")).stdout.split())
        asker.kill()
    # It is the leader of a session, which holds all that it starts.
    assert until(lambda: subprocess.run(["ps", "-s", str(supervisor)]).returncode != 0)


def test_servers_that_start_at_once_leave_each_other_alone(service: Service) -> None:
    """MariaDB deletes at its start what it finds in the folder for temporary files."""
    words = [str(service.project / ".venv/bin/python"), "-m", "dev.database"]
    with ExitStack() as stack:
        starts = [
            stack.enter_context(
                subprocess.Popen(
                    words, cwd=service.project, env=environment(), stderr=subprocess.PIPE, text=True
                )
            )
            for _ in range(6)
        ]
        for start in starts:
            _, reason = start.communicate()
            assert start.returncode == 0, reason


def test_odd_surroundings(service: Service, tmp_path: Path) -> None:
    # The path of a socket has a limit of some hundred bytes.
    (long := tmp_path / ("long" * 30)).mkdir()
    env = environment(
        LANG="xx_XX.UTF-8",
        LC_ALL="xx_XX.UTF-8",
        TZ="Nowhere",
        TMPDIR=str(long),
        PGHOST="nowhere.invalid",
        PGPORT="1",
        PGUSER="nobody",
        PGDATABASE="nothing",
        PGDATA="/nowhere",
        PGOPTIONS="-c search_path=nothing",
        PGSSLMODE="verify-full",
        PGTARGETSESSIONATTRS="standby",
        PGTZ="Nowhere",
        MYSQL_HOST="nowhere.invalid",
        MYSQL_HOME="/nowhere",
        MYSQL_PWD="wrong",
        MYSQL_TCP_PORT="1",
        MYSQL_UNIX_PORT="/nowhere",
    )
    del env["HOME"]
    words = "-m pytest tests/test_users.py tests/core/test_process.py tests/core/test_migrations.py"
    said = python(service.project, *words.split(), env=env)
    assert re.search(r"^database: \w+ [\d.]+ \(throwaway\)$", said, re.MULTILINE)

    env["TMPDIR"] = "/nowhere"
    assert "(throwaway)" in python(service.project, "-m", "dev.database", env=env)


# Roles that may create databases, and nothing else; the URL names a database of their own. The
# servers are set up as few are.
OWN = {
    "postgresql": [
        "ALTER SYSTEM SET DateStyle = 'SQL, DMY'",
        "ALTER SYSTEM SET IntervalStyle = sql_standard",
        "ALTER SYSTEM SET extra_float_digits = -5",
        "ALTER SYSTEM SET bytea_output = escape",
        "ALTER SYSTEM SET TimeZone = 'Asia/Kolkata'",
        "ALTER SYSTEM SET client_encoding = LATIN1",
        "ALTER SYSTEM SET quote_all_identifiers = on",
        "ALTER SYSTEM SET transform_null_equals = on",
        "ALTER SYSTEM SET array_nulls = off",
        "ALTER SYSTEM SET default_transaction_deferrable = on",
        "ALTER SYSTEM SET plan_cache_mode = force_generic_plan",
        "SELECT pg_reload_conf()",
        "CREATE ROLE tester LOGIN CREATEDB",
        "CREATE DATABASE test_of_mine OWNER tester",
    ],
    "mysql": [
        "SET GLOBAL default_storage_engine = MyISAM",
        "SET GLOBAL sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,HIGH_NOT_PRECEDENCE,IGNORE_SPACE'",
        "SET GLOBAL sql_quote_show_create = 0",
        "SET GLOBAL time_zone = '+05:30'",
        "SET GLOBAL character_set_server = latin1",
        "SET GLOBAL collation_server = latin1_swedish_ci",
        "SET GLOBAL explicit_defaults_for_timestamp = 0",
        "SET GLOBAL div_precision_increment = 0",
        "CREATE DATABASE test_of_mine",
        "CREATE USER tester@localhost IDENTIFIED BY 'p@ss:w/rd'",
        "GRANT ALL ON `test\\_%`.* TO tester@localhost",
    ],
}
EXECUTE = """
import asyncio, sys
from sqlalchemy import make_url
from dev.database import execute
print(asyncio.run(execute(make_url(sys.argv[1]), sys.argv[2])))
"""


# Drops a database in which somebody else is for a moment.
DROP = """
import asyncio, sys, threading, time
from dev.database import execute, temporary
from sqlalchemy import make_url
mine, admin = map(make_url, sys.argv[1:])
with temporary(mine, "test_in_use") as url:
    stay = execute(admin.set(database=url.database), "SELECT pg_sleep(2)")
    threading.Thread(target=asyncio.run, args=(stay,)).start()
    time.sleep(1)
"""


@pytest.mark.parametrize("service", ["postgresql"], indirect=True)
def test_a_database_is_dropped_that_autovacuum_is_in(service: Service) -> None:
    """As a superuser is here, whom an ordinary role may not end either."""
    with own_server(service.project) as admin:
        for statement in OWN["postgresql"]:
            python(service.project, "-c", EXECUTE, admin, statement)
        mine = admin.replace("postgres@/postgres", "tester@/test_of_mine")
        python(service.project, "-c", DROP, mine, admin)


def test_a_server_of_ones_own(service: Service, render: Render) -> None:
    """Its service has other answers than the one that is shared, and somebody's own settings."""
    database = service.project.parent.name
    project = render(**Variant(database, "no", "no").rows[0])
    (project / ".venv").symlink_to(service.project / ".venv")
    (project / ".env").write_text(
        "POOL_SIZE=3\nSTATEMENT_TIMEOUT=0.001\nECHO_SQL=yes\nLOG_LEVEL=critical\n"
        "CORS_ORIGINS=https://example.com\n"
    )

    def execute(url: str, statement: str) -> str:
        return python(service.project, "-c", EXECUTE, url, statement).strip()

    databases = {
        "postgresql": "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database",
        "mysql": "SELECT group_concat(schema_name) FROM information_schema.schemata",
    }[database]
    with own_server(service.project) as admin:
        for statement in OWN[database]:
            execute(admin, statement)
        mine = {
            "postgresql": admin.replace("postgres@/postgres", "tester@/test_of_mine"),
            "mysql": admin.replace(
                "root@localhost/app", "tester:p%40ss%3Aw%2Frd@localhost/test_of_mine"
            ),
        }[database]
        execute(mine, "CREATE TABLE users (kept int)")
        before = execute(admin, databases)

        said = python(project, "-m", "pytest", env=environment(TEST_DATABASE_URL=mine))

        assert passed(said) > 300
        assert "(TEST_DATABASE_URL)" in said
        assert execute(admin, databases) == before
        assert execute(mine, "SELECT count(kept) FROM users") == "0"
