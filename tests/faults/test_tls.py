"""Encrypted connections: what a URL asks for is what happens, on a real server with certificates.

Run in a generated project, as `test_faults.py`. PostgreSQL's wheel has no TLS: for this the
programs of the system are taken.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from app.core.config import load_settings
from app.core.db import Database, DatabaseUnavailable
from app.core.urls import DRIVER
from dev import server
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from test_faults import IS_POSTGRESQL

DATABASE = "postgres" if IS_POSTGRESQL else "app"
# PostgreSQL trusts everybody here.
PASSWORD = "pässwörd 🙂"
CIPHER = (
    "SELECT 'cipher', cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    if IS_POSTGRESQL
    else "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
)


def program(name: str, package: str) -> str:
    """Return a program of the system, also where Debian keeps servers' programs."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, newest), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    assert found, f"{name} is not there (Debian: apt-get install {package})"
    return found


def certify(folder: Path) -> None:
    """Make an authority, a certificate by it for 127.0.0.1 alone, and a stranger's authority."""
    openssl = [program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
    for name in ("ca", "stranger"):
        words = ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run([*openssl, *words], check=True, cwd=folder, capture_output=True)
    words = ["-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=server", "-days", "2"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    words += ["-keyout", "server.key", "-out", "server.pem"]
    subprocess.run([*openssl, *words], check=True, cwd=folder, capture_output=True)
    for path in [folder, *folder.iterdir()]:
        server.own(path)


@contextmanager
def running(folder: Path, port: int, *, tls: bool) -> Iterator[None]:
    """Run a server on the loopback, with certificates or without."""
    data = folder / "data"
    files = {name: folder / f"server.{end}" for name, end in {"cert": "pem", "key": "key"}.items()}
    if IS_POSTGRESQL:
        command = [program("postgres", "postgresql"), "-D", str(data), "-p", str(port)]
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "ssl": tls}
        options |= {"ssl_cert_file": files["cert"], "ssl_key_file": files["key"]}
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    else:
        command = server.command(server.find(), data, folder, True)
        command.remove("--skip-networking")
        command += [f"--port={port}", "--bind-address=127.0.0.1"]
        without = "--skip-ssl" if server.find().name == "mariadbd" else "--tls-version="
        with_ = [f"--ssl-{name}={path}" for name, path in files.items()]
        command += with_ if tls else [without]
        lines = ["SET NAMES utf8mb4;", "CREATE DATABASE IF NOT EXISTS app;"]
        # MariaDB has a user without a name at `localhost`, who would be taken before one at '%'.
        for host in ("%", "localhost"):
            lines.append(f"CREATE USER IF NOT EXISTS app@'{host}' IDENTIFIED BY '{PASSWORD}';")
            lines.append(f"GRANT ALL ON app.* TO app@'{host}';")
        (folder / "first.sql").write_text("\n".join([*lines, ""]))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **server.identity())
    try:
        yield
    finally:
        process.send_signal(server.STOP_THROWAWAY)
        process.wait(30)


def connected() -> Database:
    """Return the database that the settings name."""
    return Database(
        load_settings().database_url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=3,
        pool_recycle=-1,
        statement_timeout=3,
    )


async def asked(monkeypatch: pytest.MonkeyPatch, hosts: str, query: str = "") -> str:
    """Return what comes of a URL: an encrypted connection, a plain one, or why there is none."""
    monkeypatch.setenv(
        "DATABASE_URL", f"{DRIVER}://app:{quote(PASSWORD)}@{hosts}/{DATABASE}{query}"
    )
    async with connected() as database:
        try:
            async with database.session() as session:
                _, cipher = (await session.execute(text(CIPHER))).one()
        except (DatabaseUnavailable, DBAPIError) as error:
            return f"refused: {error}"
    return "encrypted" if cipher else "plain"


async def stored(monkeypatch: pytest.MonkeyPatch, hosts: str, query: str) -> int:
    """Return how many rows there are after one statement that stores three."""
    monkeypatch.setenv(
        "DATABASE_URL", f"{DRIVER}://app:{quote(PASSWORD)}@{hosts}/{DATABASE}{query}"
    )
    async with connected() as database, database.session() as session:
        await session.execute(text("CREATE TEMPORARY TABLE rows_of_one (number integer)"))
        statement = text("INSERT INTO rows_of_one VALUES (:number)")
        await session.execute(statement, [{"number": number} for number in range(3)])
        return int(await session.scalar(text("SELECT count(*) FROM rows_of_one")) or 0)


async def until_up(monkeypatch: pytest.MonkeyPatch, here: str) -> str:
    """Return what a URL without parameters gets, once the server answers."""
    deadline = time.monotonic() + 30
    while (said := await asked(monkeypatch, here)).startswith("refused"):
        assert time.monotonic() < deadline, said
        await asyncio.sleep(0.1)
    return said


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with certificates and an empty database, which the server can get at."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        certify(folder)
        if IS_POSTGRESQL:
            initdb = [program("initdb", "postgresql"), "--username=app", "--auth=trust"]
            words = [*initdb, "--no-sync", f"--pgdata={folder / 'data'}"]
            identity = server.identity()
            subprocess.run(words, check=True, capture_output=True, cwd="/", **identity)
        else:
            (folder / "data").mkdir()
            server.own(folder / "data")
            server.initialize(server.find(), folder / "data")
        yield folder


async def test_a_url_gets_the_encryption_that_it_asks_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here, by_name = f"127.0.0.1:{port}", f"localhost:{port}"
    if IS_POSTGRESQL:
        off, on, ca, identity = (
            f"?sslmode={mode}" for mode in ("disable", "require", "verify-ca", "verify-full")
        )
        authority = f"&sslrootcert={folder}/"
    else:
        off, on, ca, identity = (
            f"?ssl-mode={mode}" for mode in ("DISABLED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
        )
        authority = f"&ssl-ca={folder}/"

    with running(folder, port, tls=True):
        # Without a word PostgreSQL's driver encrypts where the server can.
        assert await until_up(monkeypatch, here) == ("encrypted" if IS_POSTGRESQL else "plain")
        for hosts, query, expected in [
            (here, off, "plain"),
            (here, on, "encrypted"),
            (here, f"{ca}{authority}ca.pem", "encrypted"),
            (by_name, f"{ca}{authority}ca.pem", "encrypted"),
            (here, f"{identity}{authority}ca.pem", "encrypted"),
            (by_name, f"{identity}{authority}ca.pem", "refused"),
            (here, f"{ca}{authority}stranger.pem", "refused"),
            (here, f"{identity}{authority}stranger.pem", "refused"),
        ]:
            said = await asked(monkeypatch, hosts, query)
            assert said.startswith(expected), f"{hosts}{query}: {said}"
        assert await stored(monkeypatch, here, on) == 3
        if IS_POSTGRESQL:
            several = f"127.0.0.1:1,{here}"
            assert await asked(monkeypatch, several, "?sslmode=require") == "encrypted"
            primary = "?target_session_attrs=read-write&sslmode=disable"
            assert await asked(monkeypatch, several, primary) == "plain"
            standby = await asked(monkeypatch, several, "?target_session_attrs=standby")
            assert standby.startswith("refused")

    with running(folder, port, tls=False):
        assert await until_up(monkeypatch, here) == "plain"
        assert (await asked(monkeypatch, here, on)).startswith("refused")
