"""The hook after rendering: its functions, and how a generation ends when something is amiss."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import post_gen_project as hook
import pytest
from conftest import TEMPLATE, environment, generate

HOOKS = sorted((TEMPLATE / "hooks").glob("*.py"))

# A `uv` that makes a virtual environment with a `python` that only plays the two programs which
# the hook runs in there.
UV = """#!/bin/sh
test -z "$UV_CODE" || exit "$UV_CODE"
mkdir -p .venv/bin
cat > .venv/bin/python <<'PYTHON'
#!/bin/sh
case "$2" in
dev.database) echo "SomeSQL 1.2 (played)"; echo "the server's reason" >&2; exit $DATABASE_CODE ;;
pytest) echo "12 passed, 1 failed"; exit 1 ;;
esac
PYTHON
chmod +x .venv/bin/python
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a PATH with the played uv first."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(UV)
    uv.chmod(0o755)
    return f"{uv.parent}:{os.environ['PATH']}"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an empty target folder."""
    output = tmp_path / "out"
    output.mkdir()
    return output


@pytest.mark.parametrize(
    ("amiss", "reason"),
    [
        ({"UV_CODE": "2"}, "uv sync --compile-bytecode` failed, see above"),
        ({"DATABASE_CODE": "69"}, "NOT TESTED. the server's reason"),
    ],
    ids=["no network", "no server"],
)
def test_what_is_missing_keeps_the_project(
    amiss: dict[str, str], reason: str, path: str, output: Path
) -> None:
    said = generate(output, env=environment(PATH=path, **amiss))
    assert "NOT TESTED. " in said
    assert reason in said
    assert said.index(reason) < said.index(f"  cd {output / 'my-service'}\n  make dev ")
    assert [folder.name for folder in output.iterdir()] == ["my-service"]


@pytest.mark.parametrize(
    ("amiss", "reason", "log"),
    [
        ({}, "(pytest ended with 1)", "12 passed, 1 failed\n"),
        ({"DATABASE_CODE": "1"}, "The database server did not start", "the server's reason\n"),
    ],
    ids=["a failing test", "a failing server"],
)
def test_failure_outlives_the_generation(
    amiss: dict[str, str], reason: str, log: str, path: str, output: Path
) -> None:
    said = generate(output, env=environment(PATH=path, **amiss), code=1)
    copy = output / "my-service-failed"
    assert log in said
    assert reason in said
    assert f"The project is kept in {copy}\nFull log: {copy / hook.LOG}\n" in said
    assert [folder.name for folder in output.iterdir()] == [copy.name]
    assert (copy / hook.LOG).read_text() == log
    assert (copy / "app" / "main.py").exists()
    assert not (copy / ".venv").exists()

    assert "my-service-failed-2\n" in generate(output, env=environment(PATH=path), code=1)


def test_failure_deletes_nothing_of_an_older_project(path: str, output: Path) -> None:
    generate(output, "run_tests=no")
    mine = output / "my-service" / "mine.txt"
    mine.write_text("mine")
    generate(output, "--overwrite-if-exists", env=environment(PATH=path), code=1)
    assert mine.read_text() == "mine"


def test_without_tests_nothing_is_installed(path: str, output: Path) -> None:
    said = generate(output, "run_tests=no", env=environment(PATH=path))
    assert said.splitlines()[1:] == hook.next_steps(output / "my-service")[1:]
    assert not (output / "my-service" / ".venv").exists()


def test_environment_of_other_projects_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = ["VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"]
    foreign += ["PYTEST_ADDOPTS", "UV_PROJECT_ENVIRONMENT", "UV_FROZEN", "PIP_TARGET", "PIP_USER"]
    kept = ["TEST_DATABASE_URL", "UV_INDEX", "UV_PYTHON", "PIP_INDEX_URL", "HTTPS_PROXY"]
    for name in foreign + kept:
        monkeypatch.setenv(name, "x")
    names = hook.own_environment().keys()
    assert names.isdisjoint(foreign)
    assert names > set(kept)


@pytest.mark.parametrize(
    ("project", "template", "only_compared"),
    [
        ("/tmp/tmpab12_xyz/my-service", "/tmp/tmpcd34_uvw/repo", True),
        ("/tmp/tmpab12_xyz/my-service", None, True),
        ("/tmp/tmpab12_xyz/my-service", "/tmp/tmpcd34_uvw", False),
        ("/tmp/tmp.ab12cd34/my-service", "/tmp/tmpcd34_uvw/repo", False),
        ("/tmp/tmpab12_xyz/deeper/my-service", "/tmp/tmpcd34_uvw/repo", False),
        ("/home/me/tmpab12_xyz/my-service", "/tmp/tmpcd34_uvw/repo", False),
        ("/home/me/my-service", None, False),
    ],
)
def test_is_only_compared(
    project: str, template: str | None, only_compared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    folder = None if template is None else Path(template)
    assert hook.is_only_compared(Path(project), folder) is only_compared


def test_output_arrives_as_it_comes(tmp_path: Path) -> None:
    child = "print('first', flush=True); input(); print('second')"
    command = [sys.executable, "-c", child]
    code = (
        f"from post_gen_project import Path, stream; exit(stream({command!r}, Path('log'), 60) + 3)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(TEMPLATE / "hooks")),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        said, _ = process.communicate("go on\n")
    assert said == "second\n"
    assert process.returncode == 3
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


# A test that nothing in its process can end: it heeds no signal, also of the limit for one test.
HANGS = """
import os, signal, subprocess, time
from pathlib import Path

def test_before(): ...

def test_hangs():
    child = subprocess.Popen(["sleep", "60"])
    Path("pids").write_text(f"{os.getpid()} {child.pid}")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)
"""


def test_a_suite_that_hangs_ends_and_the_test_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / hook.PYTHON).parent.mkdir(parents=True)
    (tmp_path / hook.PYTHON).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / hook.PYTHON).chmod(0o755)
    (tmp_path / "test_it.py").write_text(HANGS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -n 2\n")
    monkeypatch.chdir(tmp_path)
    # Time enough for a busy machine to get there.
    monkeypatch.setattr(hook, "LIMIT", 15)
    with pytest.raises(hook.Failed) as failed:
        hook.run_suite()

    first, *names = str(failed.value).splitlines()
    assert first == "The tests of the service did not end within 15 s. What ran then:"
    assert names == ["  test_it.py::test_hangs"]
    assert "." in hook.LOG.read_text()
    for pid in (tmp_path / "pids").read_text().split():
        has_ended(int(pid))


def has_ended(pid: int) -> None:
    """Wait until a process is gone, or nobody's but for its entry."""
    stat = Path("/proc", str(pid), "stat")
    deadline = time.monotonic() + 5
    while stat.exists() and ") Z " not in stat.read_text():
        assert time.monotonic() < deadline


def test_ctrl_c_ends_what_runs(tmp_path: Path) -> None:
    child = "import os; print(os.getpid(), flush=True); input()"
    command = [sys.executable, "-c", child]
    code = f"from post_gen_project import Path, stream; stream({command!r}, Path('log'), 60)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(TEMPLATE / "hooks")),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.wait(5)
        assert "KeyboardInterrupt" in process.stderr.read()
    has_ended(pid)
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()


def test_no_fitting_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(hook.Missing, match="neither uv nor a Python"):
        hook.install()


def test_another_python_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python3.14").symlink_to("/bin/false")
    (tmp_path / "python3.12").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python3.12").chmod(0o755)
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hook.find_python() == str(tmp_path / "python3.12")


@pytest.mark.parametrize(
    ("skipped", "words"), [(0, "42 tests passed in 5.2 s"), (2, "40 tests passed, 2 skipped in")]
)
def test_count_tests(skipped: int, words: str) -> None:
    suite = f'<testsuite errors="0" failures="0" skipped="{skipped}" tests="42" time="5.21"/>'
    assert str(hook.count_tests(f"<testsuites>{suite}</testsuites>")).startswith(words)


def test_next_steps_without_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    steps = "\n".join(hook.next_steps(Path("/my files/my-service")))
    assert "cd '/my files/my-service'" in steps
    assert "uv run pytest" in steps
    assert "make" not in steps


@pytest.mark.parametrize("script", HOOKS, ids=[script.stem for script in HOOKS])
def test_hook_is_a_script_before_and_after_rendering(script: Path) -> None:
    text = script.read_text()
    ast.parse(text, feature_version=(3, 10))
    # Only answers enter, and only as JSON.
    for line in text.splitlines():
        assert not re.search(r"<<|<%|<#", line) or "json.loads(" in line
