"""After rendering: install the service and run its tests on a real database server.

What the machine lacks keeps the project untested and says how to get it. Tests that fail end the
generation with an exit code, and a copy of the project outlives it.
"""

import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

PYTHON = Path(".venv", "bin", "python")
LOG = Path(".first-test-run.log")
# Seconds for all tests; they take ten on two cores. One that hangs fails by itself after a minute,
# but for one that nothing in its own process can end.
LIMIT = 600
# Seconds for pytest to end in order after a Ctrl-C.
GRACE = 10

# `python -m dev.database` ends with this when the machine has no server: `EX_UNAVAILABLE`.
NO_SERVER = 69

# What would lead another Python, pytest, uv or pip astray: it was meant for someone else.
FOREIGN = re.compile(
    r"PYTHON.*|PYTEST_.*|VIRTUAL_ENV|CONDA_PREFIX"
    r"|UV_(PROJECT|PROJECT_ENVIRONMENT|WORKING_DIR\w*|FROZEN|LOCKED|NO_SYNC|NO_DEV|NO_GROUP)"
    r"|PIP_(TARGET|PREFIX|ROOT|USER|NO_DEPS|REQUIRE_VIRTUALENV|PYTHON|CONSTRAINT)"
)

REQUIREMENTS = """
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\\n")
"""

# A plugin of pytest, which notes the tests that run. xdist's processes tell the one that has none.
NOTES = """
import os
from pathlib import Path

FOLDER = Path(__file__).parent
IS_FIRST = "PYTEST_XDIST_WORKER" not in os.environ

def note(sign, nodeid):
    if IS_FIRST:
        with (FOLDER / "notes").open("a", encoding="utf-8") as file:
            print(sign, nodeid, file=file)

def pytest_runtest_logstart(nodeid):
    note("+", nodeid)

def pytest_runtest_logfinish(nodeid):
    note("-", nodeid)
"""


class Missing(Exception):
    """The machine lacks something; the message says what, and how to get it."""


class Failed(Exception):
    """The service was installed, and its tests failed."""


class Outcome(NamedTuple):
    """What pytest counted."""

    passed: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} tests passed{skipped} in {self.seconds:.1f} s"


def is_only_compared(project: Path, template: Path | None) -> bool:
    """Return whether cruft renders the project just to compare it, and throws it away then.

    `cruft update` and `cruft diff` render into a `TemporaryDirectory`, which a user of `cruft
    create` may do as well. Unlike that, they keep their clone of the template in a folder named
    `repo`, and that is cruft's working directory while it runs a hook. Where it cannot be known
    (`template` is None: no /proc), the temporary folder decides.
    """
    folder = project.parent
    return (
        folder.parent == Path(tempfile.gettempdir()).resolve()
        and re.fullmatch(r"tmp[a-z0-9_]{8}", folder.name) is not None
        and (template is None or template.name == "repo")
    )


def parent_directory() -> Path | None:
    """Return the working directory of the process that runs this hook, where /proc tells."""
    try:
        return Path(f"/proc/{os.getppid()}/cwd").readlink()
    except OSError:
        return None


def own_environment() -> dict[str, str]:
    """Return the environment without what belongs to other projects."""
    kept = {name: value for name, value in os.environ.items() if not FOREIGN.fullmatch(name)}
    # Without a buffer, pytest's dots arrive one by one.
    return kept | {"PYTHONUNBUFFERED": "1"}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and catch what it says. Raises TimeoutExpired."""
    return subprocess.run(
        command, env=own_environment(), text=True, capture_output=True, timeout=LIMIT
    )


def stream(command: list[str], log: Path, limit: float, **more: str) -> int:
    """Run a command, show what it says while it says it, and keep it in a log as well.

    Raises TimeoutExpired after `limit` seconds. However it ends, nothing that it started goes on.
    """
    deadline = time.monotonic() + limit
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command,
            env=own_environment() | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A group of its own, to be ended as one.
            start_new_session=True,
        ) as process,
    ):
        try:
            show(process, file, deadline)
            return process.wait(max(0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            # The terminal has told only this process.
            os.killpg(process.pid, signal.SIGINT)
            show(process, file, time.monotonic() + GRACE)
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def show(process: subprocess.Popen[bytes], log: BinaryIO, deadline: float) -> None:
    """Show and keep what a process says, until it has no more to say or the time is over."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    while select.select([output], [], [], max(0, deadline - time.monotonic()))[0]:
        chunk = os.read(output, 65536)
        if not chunk:
            return
        log.write(chunk)
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def say(*lines: str) -> None:
    """Print at once, terminal or not."""
    print(*lines, sep="\n", flush=True)


def find_python() -> str:
    """Return a Python that can make the service's virtual environment. Raises Missing."""
    names = [f"python3.{minor}" for minor in (14, 13, 12, 11)] + ["python3"]
    for python in [sys.executable, *filter(None, map(shutil.which, names))]:
        is_fit = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
        if run(python, "-c", is_fit).returncode == 0:
            return python
    raise Missing(
        "There is neither uv nor a Python from 3.11 on with its venv module.\n"
        "Get one of them: `pip install uv`, or on Debian `apt-get install python3-venv`."
    )


def install() -> None:
    """Make the virtual environment `.venv` with everything in it. Raises Missing."""
    if uv := shutil.which("uv"):
        steps = [[uv, "sync", "--compile-bytecode"]]
    else:
        python = find_python()
        requirements = run(python, "-c", REQUIREMENTS).stdout.splitlines()
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        steps = [
            [python, "-m", "venv", ".venv"],
            # A Python brings its pip of that time, which may know no groups.
            [*pip, "--upgrade", "pip"],
            [*pip, "--group", "dev", *requirements],
        ]
    for step in steps:
        if subprocess.run(step, env=own_environment()).returncode != 0:
            raise Missing(
                f"`{shlex.join(step[:4])}` failed, see above: is the network there?\n"
                "Once it works, `make test` installs the service and tests it."
            )


def find_server() -> str:
    """Return the name and version of the server that tests run on. Raises Missing or Failed."""
    answer = run(PYTHON, "-m", "dev.database")
    if answer.returncode == NO_SERVER:
        raise Missing(answer.stderr.strip())
    if answer.returncode != 0:
        LOG.write_text(answer.stderr)
        raise Failed(f"{answer.stderr.strip()}\n\nThe database server did not start.")
    return answer.stdout.strip()


def run_suite() -> Outcome:
    """Run the service's own tests. Raises Failed, with the names of those that hang."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        Path(folder, "hook_notes.py").write_text(NOTES, encoding="utf-8")
        words = [str(PYTHON), "-m", "pytest", "-q", "-p", "hook_notes", f"--junitxml={report}"]
        try:
            code = stream(words, LOG, LIMIT, PYTHONPATH=folder)
        except subprocess.TimeoutExpired:
            names = running(Path(folder, "notes")) or ["none: it had not begun, or did not end"]
            raise Failed(
                f"The tests of the service did not end within {LIMIT} s. What ran then:\n  "
                + "\n  ".join(names)
            ) from None
        if code != 0:
            raise Failed(f"The tests of the service failed (pytest ended with {code}).")
        return count_tests(report.read_text(encoding="utf-8"))


def running(notes: Path) -> list[str]:
    """Return the tests that have begun and not ended."""
    names: dict[str, None] = {}
    for line in notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []:
        sign, name = line.split(" ", 1)
        if sign == "+":
            names[name] = None
        else:
            names.pop(name, None)
    return list(names)


def count_tests(report: str) -> Outcome:
    """Read pytest's JUnit report of a run that did not fail."""
    suites = list(ElementTree.fromstring(report).iter("testsuite"))
    skipped = sum(int(suite.attrib["skipped"]) for suite in suites)
    return Outcome(
        passed=sum(int(suite.attrib["tests"]) for suite in suites) - skipped,
        skipped=skipped,
        seconds=sum(float(suite.attrib["time"]) for suite in suites),
    )


def keep_copy(project: Path) -> Path:
    """Copy the project beside itself: cookiecutter deletes a folder whose hook failed."""
    names = (project.name + "-failed" + (f"-{n}" if n > 1 else "") for n in count(1))
    copy = next(path for path in map(project.with_name, names) if not path.exists())
    what_is_made_anew = shutil.ignore_patterns(".venv", "__pycache__", ".*_cache")
    shutil.copytree(project, copy, symlinks=True, ignore=what_is_made_anew)
    return copy


def next_steps(project: Path) -> list[str]:
    """Return the commands to type next."""
    if shutil.which("make"):
        serve, test = "make dev", "make test"
    else:
        serve, test = "uv run python -m dev serve", "uv run pytest"
    return [
        "",
        f"  cd {shlex.quote(str(project))}",
        f"  {serve:<12}  # http://127.0.0.1:8000/docs, with a database of its own",
        f"  {test:<12}  # the tests, on a real server",
    ]


def prove() -> list[str]:
    """Install the service, run its tests, and return what to say about them."""
    say("Installing the service …")
    install()
    server = find_server()
    say(f"Running its tests on {server} …")
    outcome = run_suite()
    LOG.unlink()
    return ["", f"  {server}", f"  {outcome}"]


def main() -> int:
    """Prove the project in the working directory; return the exit code."""
    answers = json.loads(r"""<< cookiecutter.__answers >>""")
    by_cookiecutter: bool = json.loads("<< ('_output_dir' in cookiecutter) | tojson >>")
    project = Path.cwd()
    if not by_cookiecutter and is_only_compared(project, parent_directory()):
        return 0
    summary: list[str] = []
    if answers["run_tests"] == "yes":
        try:
            summary = prove()
        except Missing as missing:
            summary = ["", f"NOT TESTED. {missing}"]
        except KeyboardInterrupt:
            say("", f"Stopped. The project is kept in {project}")
            return 130
        except Exception as error:
            # A fault of this script must not cost the project either.
            reason = str(error) if isinstance(error, Failed) else traceback.format_exc()
            copy = keep_copy(project)
            say("", reason, f"The project is kept in {copy}", f"Full log: {copy / LOG}")
            return 1
    say(*summary, *next_steps(project))
    return 0


if __name__ == "__main__":
    script = Path(__file__)
    if script.parent == Path(tempfile.gettempdir()):
        script.unlink()  # cookiecutter has rendered it there, and would leave it
    sys.exit(main())
