"""`cruft create`, a change of the template, and `cruft update`, for real."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import commit, copy_template, environment, run

CRUFT = Path(sys.executable).with_name("cruft")


@pytest.fixture
def output() -> Iterator[Path]:
    """Return a target folder that looks like those which `cruft update` renders into."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


def test_create_and_update(output: Path, tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    said = run(CRUFT, "create", template, "--no-input", "--output-dir", output, cwd=tmp_path).stdout
    project = output / "my-service"
    assert " tests passed in " in said
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
