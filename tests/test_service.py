"""Each database's service, generated and proven by the hook, on its real server."""

import re
from pathlib import Path

from conftest import SUMMARY, Render, Service, copy_service, environment, files, python, run

# What a test needs before it may take long on a busy machine.
HANGS = """
import asyncio
import pytest

@pytest.mark.timeout(2, func_only=True)
async def test_hangs():
    await asyncio.Event().wait()
"""
SERVERS = {"postgresql": r"PostgreSQL 1[89]\.\d+", "mysql": r"(MariaDB|MySQL) \d+\.\d+\.\d+"}


def database(service: Service) -> str:
    """Return the database that the service was generated for."""
    return service.project.parent.name


def test_generation_ends_with_a_summary(service: Service) -> None:
    *_, server, count, empty, cd, dev, test = service.said.splitlines()
    assert re.fullmatch(rf"  {SERVERS[database(service)]} \(throwaway\)", server)
    match = SUMMARY.fullmatch(count)
    assert match is not None
    assert int(match[1]) >= 40
    assert [empty, cd] == ["", f"  cd {service.project}"]
    assert dev.startswith("  make dev ")
    assert test.startswith("  make test ")


def test_generation_shows_progress(service: Service) -> None:
    assert re.search(r"^\.+ *\[ *\d+%\]$", service.said, re.MULTILINE)
    assert re.search(r"^\d+ passed in ", service.said, re.MULTILINE)


def test_generation_adds_only_what_git_ignores_and_the_lock(
    service: Service, render: Render
) -> None:
    rendered = render(database=database(service))
    assert files(service.project) == files(rendered)
    run("git", "init", "--quiet", cwd=service.project)
    new = run("git", "status", "--porcelain", "--untracked-files=all", cwd=service.project).stdout
    (service.project / ".git").rename(service.project.parent / "git")
    assert {line.split()[-1] for line in new.splitlines()} == {*files(rendered), "uv.lock"}


def test_lock_fits(service: Service) -> None:
    run("uv", "lock", "--check", cwd=service.project)


def test_lint(service: Service) -> None:
    assert "Success: no issues found" in run("make", "lint", cwd=service.project).stdout


def test_a_test_that_hangs_fails_and_is_named(service: Service, tmp_path: Path) -> None:
    project = copy_service(service, tmp_path / "my-service")
    (project / "tests" / "test_hangs.py").write_text(HANGS)
    tests = ["tests/test_hangs.py", "tests/core/test_errors.py"]
    said = python(project, "-m", "pytest", *tests, code=1)
    assert "FAILED tests/test_hangs.py::test_hangs - Failed: Timeout (>2.0s)" in said
    assert re.search(r"=+ 1 failed, \d+ passed in ", said)
    assert "timeout: 60.0s" in python(project, "-m", "pytest", "tests/core/test_settings.py")


def test_odd_answers_run(service: Service, render: Render) -> None:
    odd = """It's a "🚀" \\ {{x}} ${{ y }} 服务"""
    project = render(
        project_name=odd, project_slug="odd", description=odd, database=database(service)
    )
    code = "from app.main import app; print(ascii(app.title))"
    (project / ".venv").symlink_to(service.project / ".venv")
    url = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}[database(service)]
    env = environment(DATABASE_URL=f"{url}://u:p@localhost/x")
    assert python(project, "-c", code, env=env).strip() == ascii(odd)
