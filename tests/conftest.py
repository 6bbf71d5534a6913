"""What the tests share: ways to render the template, and one rendered service per database."""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cookiecutter.environment import StrictEnvironment
from cookiecutter.main import cookiecutter
from jinja2 import FileSystemBytecodeCache

# These run in a generated service, by its own Python.
collect_ignore = ["clusters", "faults", "migrations"]

TEMPLATE = Path(__file__).parent.parent
DATABASES = ("postgresql", "mysql")
PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14")


# The answers, by pairs: any two that go together stand in one line, as `test_variants.py` proves.
# Numbers are the ends of what is allowed, and what lies beside them.
TABLE = """
database    vector_search  sync_bridge  pool_size  max_overflow  pool_timeout  pool_recycle
postgresql  no             yes          2          1             0.5           1
postgresql  no             no           1          0             3             -1
postgresql  no             no           1000       1000          0.5           -1
postgresql  yes            no           1          1000          0.5           1
postgresql  yes            yes          1000       1             3             -1
postgresql  yes            no           2          0             3             1
mysql       no             yes          1000       0             0.5           1
mysql       no             no           1          1             3             1
mysql       no             yes          2          1000          3             -1
"""
PROMPTS, *LINES = [line.split() for line in TABLE.strip().splitlines()]
ROWS = [dict(zip(PROMPTS, line, strict=True)) for line in LINES]


class Variant(NamedTuple):
    """What of the service depends on answers."""

    database: str
    vector_search: str
    sync_bridge: str

    @property
    def answers(self) -> dict[str, str]:
        """Return the answers that make it."""
        return self._asdict()

    @property
    def rows(self) -> list[dict[str, str]]:
        """Return the lines of the table that make it: one or two."""
        return [row for row in ROWS if row.items() >= self.answers.items()]


def words(row: Mapping[str, str]) -> list[str]:
    """Return answers as the command line takes them."""
    return [f"{prompt}={answer}" for prompt, answer in row.items()]


# All there are.
VARIANTS = [
    Variant(database, vectors, bridge)
    for database in DATABASES
    for vectors in ("no", "yes")
    for bridge in ("no", "yes")
    if (database, vectors) != ("mysql", "yes")
]

# Those of other answers than the shared services', with whose test proves them by the hook.
PROVEN = {
    "no uv": Variant("postgresql", "yes", "yes"),
    "cruft": Variant("postgresql", "no", "yes"),
    "an ordinary user, postgresql": Variant("postgresql", "yes", "no"),
    "an ordinary user, mysql": Variant("mysql", "no", "yes"),
}

# The files in the order in which they begin: the longest first, so that xdist's processes end
# together. The very first has a limit, and is beside one that leaves it a processor.
LONGEST = """
    machines refused_answers cruft benchmark example_removed resource under_faults bench
    development image service lifting migrations_of_any_model phrasebook monitoring
""".split()

# What a generation says of its tests, when all have passed.
SUMMARY = re.compile(r"^  (\d+) tests passed in \d+\.\d s$", re.MULTILINE)

# What the shell, make or a virtual environment around these tests would hand down.
OUTER = re.compile(
    r"PYTHON.*|PYTEST_.*|VIRTUAL_ENV|MAKE.*|MFLAGS|GIT_(DIR|WORK_TREE|INDEX_FILE)|.*_DATABASE_URL"
)

# Starts a throwaway server.
START = """
import os, signal, time
from dev import database
server = database.start()
print(server.url.render_as_string(hide_password=False), flush=True)
"""

Result = subprocess.CompletedProcess[str]
Render = Callable[..., Path]


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a user's shell that finds uv, with changes."""
    kept = {name: value for name, value in os.environ.items() if not OUTER.fullmatch(name)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Beside each other they have the machine's processors among them.
    return kept | {"PATH": path, "PYTEST_ADDOPTS": "--numprocesses=2"} | changes


def run(
    *command: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    code: int = 0,
    typed: str = "",
    **more: Any,
) -> Result:
    """Run a command that has to end with an exit code; its output is one text."""
    result: Result = subprocess.run(
        command,
        cwd=cwd,
        env=environment() if env is None else env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        input=typed,
        **more,
    )
    assert result.returncode == code, result.stdout
    return result


def generate(
    output: Path, *answers: str, within: Sequence[str] = (), code: int = 0, **more: Any
) -> str:
    """Generate by the command line, as a user does, or within a command; return what it says."""
    words = [*within, sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    return run(*words, "--output-dir", output, *answers, cwd=output, code=code, **more).stdout


def python(project: Path, *words: str | Path, **more: Any) -> str:
    """Run a project's Python; return what it says."""
    return run(project / ".venv/bin/python", *words, cwd=project, **more).stdout


def passed(said: str) -> int:
    """Return how many tests have passed, where none failed."""
    found = re.search(r"^=* ?(\d+) passed in ", said, re.MULTILINE)
    assert found, said
    return int(found[1])


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def own_server(project: Path) -> Iterator[str]:
    """Run a server apart from the project's own; give its URL."""
    asker = subprocess.Popen(
        [project / ".venv/bin/python", "-c", f"{START}\ninput()"],
        cwd=project,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with asker:
        assert asker.stdout is not None
        yield asker.stdout.readline().strip()
        asker.communicate("\n")


def copy_template(target: Path) -> Path:
    """Copy the template as a commit of now would hold it, and commit that."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, run(*git, cwd=TEMPLATE).stdout.split("\0")):
        if os.path.lexists(TEMPLATE / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TEMPLATE / name, target / name, follow_symlinks=False)
    run("git", "init", "--quiet", cwd=target)
    commit(target, "Copy")
    return target


def commit(repository: Path, message: str) -> None:
    """Commit all there is."""
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    run("git", "add", "--all", cwd=repository)
    run("git", *who, "commit", "--quiet", f"--message={message}", cwd=repository)


def files(project: Path) -> dict[str, str]:
    """Return the text of every file that the template rendered."""
    made_later = {".venv", "uv.lock", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    return {
        str(path.relative_to(project)): path.read_text(encoding="utf-8")
        for path in sorted(project.rglob("*"))
        if path.is_file() and made_later.isdisjoint(path.relative_to(project).parts)
    }


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files. Last, since pytest sorts by `service`, through all files."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return [*LONGEST, name].index(name)

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep cookiecutter away from the home folder's settings and replays, and one mypy cache."""
    folder = tmp_path_factory.mktemp("settings")
    # Services differ little, and what they install not at all.
    os.environ["MYPY_CACHE_DIR"] = str(folder / "mypy")
    settings = folder / "cookiecutter.yaml"
    settings.write_text(f"replay_dir: {folder}\ncookiecutters_dir: {folder}\n")
    os.environ["COOKIECUTTER_CONFIG"] = str(settings)


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile each file of the template once, and not for each project; Jinja sees a change."""
    cache = FileSystemBytecodeCache(str(tmp_path_factory.mktemp("compiled")))
    with pytest.MonkeyPatch.context() as patch:
        # As if cookiecutter gave it to Jinja; what Jinja has been given instead, none, is left out.
        shared = property(lambda _: cache, lambda *_: None)
        patch.setattr(StrictEnvironment, "bytecode_cache", shared, raising=False)
        yield


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user can get at, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def render(tmp_path: Path, _compiled: None) -> Render:
    """Render a project in this process, without hooks."""

    def render(output: Path = tmp_path, **answers: str) -> Path:
        rendered = cookiecutter(
            str(TEMPLATE),
            no_input=True,
            extra_context=answers,
            output_dir=str(output),
            accept_hooks=False,
        )
        return Path(rendered)

    return render


class Service(NamedTuple):
    """A generated service with its virtual environment, and what its generation said."""

    project: Path
    said: str


@pytest.fixture(scope="session", params=DATABASES)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service that the hook has proven: one per database, shared by all workers."""
    database: str = request.param
    shared = tmp_path_factory.getbasetemp()
    output = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / database
    output.mkdir(exist_ok=True)
    said = output / "said.txt"
    with (output / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            said.write_text(generate(output, f"database={database}"))
    return Service(output / "my-service", said.read_text())


def copy_service(service: Service, project: Path) -> Path:
    """Copy a service to where nobody else changes it; its virtual environment is shared."""
    made_later = shutil.ignore_patterns(".venv", ".*_cache", "__pycache__")
    shutil.copytree(service.project, project, ignore=made_later)
    (project / ".venv").symlink_to(service.project / ".venv")
    return project
