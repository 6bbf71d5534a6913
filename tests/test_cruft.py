"""`cruft create`, a change of the template, and `cruft update`, for real."""

import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DATABASES, PROVEN, SUMMARY, TEMPLATE, commit, copy_template, environment, run

CRUFT = Path(sys.executable).with_name("cruft")

# The commit that the newest version in CHANGELOG.md ended with: what people have.
LAST_VERSION = "2a3261530172e4333cd68912b893e1beab221aa9"

# What people have changed in theirs: another default, a setting, a route with its test, a number.
EDITS = {
    "app/core/config.py": [
        (
            "statement_timeout: float = Field(default=30",
            "statement_timeout: float = Field(default=10",
        ),
        ("    @model_validator(mode", '    greeting: str = "Hello"\n\n    @model_validator(mode'),
    ],
    ".env.example": [("CORS_ORIGINS=\n", "CORS_ORIGINS=\nGREETING=Hello\n")],
    "app/main.py": [
        ("import errors, health, ", "import errors, greetings, health, "),
        ("    return app\n", "    app.include_router(greetings.router)\n    return app\n"),
    ],
    "pyproject.toml": [('version = "0.1.0"', 'version = "1.2.0"')],
    "README.md": [
        ("# My Service\n", "# My Service\n\nOurs since 2026.\n"),
        ("; `*` for all |\n", "; `*` for all |\n| `GREETING` | Hello | our first word |\n"),
    ],
}
OWN = {
    "app/api/greetings.py": '''"""Greetings."""

from fastapi import APIRouter, Request

from app.core.config import load_settings

router = APIRouter(prefix="/greetings", tags=["greetings"])


@router.get("/{name}")
async def greet(request: Request, name: str) -> dict[str, str]:
    """Greet somebody."""
    return {"greeting": f"{load_settings().greeting}, {name}"}
''',
    "tests/test_greetings.py": '''"""Greetings."""

from httpx2 import AsyncClient

from app.core.config import Settings


async def test_greeting(client: AsyncClient) -> None:
    got = await client.get("/greetings/Ada")
    assert got.json() == {"greeting": "Hello, Ada"}
    assert Settings.model_fields["statement_timeout"].default == 10
''',
}


@pytest.fixture
def output() -> Iterator[Path]:
    """Return a target folder that looks like those which `cruft update` renders into."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


def edit(project: Path) -> None:
    """Change a service as its users would."""
    said = run("make", "resource", "name=order", "fields=number:str:unique", cwd=project).stdout
    assert " passed in " in said
    for name, changes in EDITS.items():
        text = (project / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} in {name}"
            text = text.replace(old, new)
        (project / name).write_text(text)
    for name, text in OWN.items():
        (project / name).write_text(text)


def test_create_and_update(output: Path, tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    answers = json.dumps(PROVEN["cruft"].rows[0])
    words = ["create", str(template), "--no-input", "--extra-context", answers]
    said = run(CRUFT, *words, "--output-dir", output, cwd=tmp_path).stdout
    project = output / "my-service"
    assert SUMMARY.search(said)
    assert "Success: no issues" in run("make", "lint", cwd=project).stdout
    assert (project / ".venv").is_dir()

    run("git", "init", "--quiet", cwd=project)
    (project / "app" / "mine.py").write_text("MINE = 1\n")
    commit(project, "Mine")

    service = template / "<<cookiecutter.project_slug>>"
    (service / "app" / "new.py").write_text('SLUG = "<< cookiecutter.project_slug >>"\n')
    with (service / "README.md").open("a") as readme:
        readme.write("\nA new line.\n")
    commit(template, "Change")

    # A uv that tells when it is asked for anything
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f"#!/bin/sh\ntouch {tmp_path}/uv-ran\n")
    uv.chmod(0o755)
    env = environment(PATH=f"{uv.parent}:{os.environ['PATH']}")
    run(CRUFT, "check", cwd=project, env=env, code=1)
    said = run(CRUFT, "update", "--skip-apply-ask", cwd=project, env=env).stdout
    assert "Project's cruft has been updated" in said
    assert "nstalling" not in said
    assert "passed" not in said
    assert not (tmp_path / "uv-ran").exists()
    assert (project / "app" / "new.py").read_text() == 'SLUG = "my-service"\n'
    assert (project / "README.md").read_text().endswith("\nA new line.\n")
    assert (project / "app" / "mine.py").exists()
    assert (project / ".venv").is_dir()

    commit(project, "Update")
    run(CRUFT, "check", cwd=project, env=env)
    assert run(CRUFT, "diff", "--exit-code", cwd=project, env=env).stdout == ""
    assert not (tmp_path / "uv-ran").exists()
    head = run("git", "rev-parse", "HEAD", cwd=template).stdout.strip()
    assert json.loads((project / ".cruft.json").read_text())["commit"] == head


@pytest.mark.parametrize("database", DATABASES)
def test_a_service_of_the_last_version_is_updated(
    database: str, output: Path, tmp_path: Path
) -> None:
    """What its users have changed stays, and all tests pass: theirs, and those that are new."""
    (template := tmp_path / "template").mkdir()
    archive = tmp_path / "last.tar"
    try:
        run("git", "archive", f"--output={archive}", LAST_VERSION, cwd=TEMPLATE)
    except AssertionError as error:
        pytest.fail(f"The history is not whole: `git fetch --unshallow`.\n{error}")
    run("tar", "--extract", f"--file={archive}", cwd=template)
    run("git", "init", "--quiet", cwd=template)
    commit(template, "Last version")
    answers = json.dumps({"database": database, "run_tests": "no"})
    words = ["create", str(template), "--no-input", "--extra-context", answers]
    run(CRUFT, *words, "--output-dir", output, cwd=tmp_path)
    project = output / "my-service"
    run("git", "init", "--quiet", cwd=project)
    commit(project, "Begin")
    edit(project)
    commit(project, "Ours")

    run("git", "rm", "--quiet", "-r", ".", cwd=template)
    copy_template(template)
    said = run(CRUFT, "update", "--skip-apply-ask", cwd=project).stdout
    assert "Project's cruft has been updated" in said
    assert run("git", "diff", "--name-only", "--diff-filter=U", cwd=project).stdout == "", said
    assert list(project.rglob("*.rej")) == [], said
    commit(project, "Update")
    run(CRUFT, "check", cwd=project)
    for name, changes in EDITS.items():
        text = (project / name).read_text()
        assert all(new in text for _, new in changes)
    said = run("make", "ci", cwd=project).stdout
    assert " passed in " in said


def test_versions_are_told_as_they_are_cut() -> None:
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    headings = re.findall(r"^## (\S+)", (TEMPLATE / "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = next(heading for heading in headings if heading != "Unreleased")
    assert newest == project["version"]
