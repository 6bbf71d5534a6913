"""The image: what `.dockerignore` and `Dockerfile` put into it is enough to migrate and to serve.

No image is built: that takes a registry of images, which these machines have not. The folder and
the packages are those that it would hold.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from conftest import Service, environment, own_server, run


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
    [command] = re.findall(r"^CMD (.+)$", second, re.MULTILINE)
    with own_server(service.project) as url:
        env = environment(DATABASE_URL=url, PATH=f"{open_folder}/.venv/bin:{os.environ['PATH']}")
        run("alembic", "upgrade", "head", cwd=open_folder, env=env)
        process = subprocess.Popen(
            [*json.loads(command), "--port=0"],
            cwd=open_folder,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            port = next(found[1] for line in lines if (found := re.search(r":(\d+) \(Press", line)))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/users") as got:
                assert got.read() == b'{"items":[],"next":null}'
            process.send_signal(signal.SIGINT)
