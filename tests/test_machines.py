"""Machines unlike this one: an empty home, another user, no uv, no server, no network."""

import os
import pwd
import re
import runpy
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    PROVEN,
    SUMMARY,
    Render,
    copy_template,
    environment,
    generate,
    run,
    words,
)

IS_ROOT = os.geteuid() == 0
SEARCHED = [*os.environ["PATH"].split(os.pathsep), "/usr/local/bin", "/usr/bin", "/bin"]


def find_python(user: Mapping[str, Any]) -> Path:
    """Return a Python that a user can run."""
    for folder in SEARCHED:
        python = Path(folder, "python3")
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        with suppress(OSError, AssertionError):
            run(python, "-c", code, cwd=Path("/"), **user)
            return python
    raise AssertionError("There is no Python from 3.11 on that an ordinary user can run.")


@pytest.mark.parametrize(
    ("database", "server"),
    [("postgresql", r"PostgreSQL 18\."), ("mysql", r"(MariaDB|MySQL) \d+\.")],
    ids=["postgresql", "mysql"],
)
def test_make_service_by_an_ordinary_user_in_a_fresh_clone(
    database: str, server: str, open_folder: Path
) -> None:
    someone = pwd.getpwnam("nobody") if IS_ROOT else pwd.getpwuid(os.geteuid())
    user: dict[str, Any] = {"user": someone.pw_uid, "group": someone.pw_gid}
    user["extra_groups"] = [] if IS_ROOT else None
    template = copy_template(open_folder / "template")
    clone, home = open_folder / "clone", open_folder / "home"
    run("git", "clone", "--quiet", template, clone, cwd=open_folder)
    home.mkdir()
    run("chown", "-R", f"{someone.pw_uid}:{someone.pw_gid}", clone, home, cwd=open_folder)
    path = os.pathsep.join([f"{clone}/.venv/bin", "/usr/local/bin", "/usr/bin", "/bin"])
    env = environment(HOME=str(home), PATH=path, XDG_CACHE_HOME=f"{home}/.cache")
    for name in ("COOKIECUTTER_CONFIG", "MYPY_CACHE_DIR"):
        del env[name]

    def make_service(answers: str, *more: str, code: int = 0) -> str:
        more = (f"PYTHON={find_python(user)}", f"ANSWERS={answers}", *more)
        return run("make", "service", *more, cwd=clone, env=env, code=code, **user).stdout

    row = PROVEN[f"an ordinary user, {database}"].rows[0]
    *_, first, count, _, cd, dev, test = make_service(" ".join(words(row))).splitlines()
    assert re.match(f"  {server}", first)
    assert SUMMARY.fullmatch(count)
    project = clone / "out" / "my-service"
    assert [cd, dev[:10], test[:11]] == [f"  cd {project}", "  make dev", "  make test"]
    assert project.stat().st_uid == someone.pw_uid
    assert "Success: no issues" in run("make", "lint", cwd=project, env=env, **user).stdout
    assert run("git", "status", "--porcelain", cwd=clone, env=env, **user).stdout == ""

    answers = f"database={database} run_tests=no project_name='My Shop'"
    for _ in "again", "and again":
        make_service(answers)
        assert [folder.name for folder in (clone / "out").iterdir()] == ["my-shop"]

    for code in 0, 2:
        said = make_service(answers, f"OUT={home}/mine", code=code)
    assert f'"{home}/mine/my-shop" directory already exists' in said


def test_no_uv_and_a_folder_of_any_name(tmp_path: Path) -> None:
    folders = [folder for folder in SEARCHED if not Path(folder, "uv").exists()]
    env = environment(PATH=os.pathsep.join(folders))
    assert shutil.which("uv", path=env["PATH"]) is None
    (output := tmp_path / "Meine 'Dienste' zu 100 % für").mkdir()
    said = generate(output, *words(PROVEN["no uv"].rows[0]), env=env)
    project = output / "my-service"
    assert SUMMARY.search(said)
    assert "Success: no issues" in run("make", "lint", cwd=project, env=env).stdout
    assert not (project / "uv.lock").exists()
    # All of them have passed just now, by the same Python: here the command is tested.
    env |= {"PYTEST_ADDOPTS": "-k test_users"}
    assert " passed" in run("make", "test", cwd=project, env=env).stdout


def test_no_server(tmp_path: Path, render: Render) -> None:
    """Hide the machine's servers behind an empty file, which only this generation sees."""
    module = runpy.run_path(str(render(tmp_path, database="mysql") / "dev" / "server.py"))
    folders = [*SEARCHED, *module["FOLDERS"]]
    programs = [Path(folder, name) for folder in folders for name in ("mariadbd", "mysqld")]
    servers = sorted({str(program.resolve()) for program in programs if program.exists()})
    (empty := tmp_path / "empty").touch()
    hide = "".join(f"mount --bind {empty} {shlex.quote(server)} && " for server in servers)
    alone = ["unshare", "--mount", *([] if IS_ROOT else ["--map-root-user"])]
    (output := tmp_path / "out").mkdir()
    said = generate(
        output, "database=mysql", within=[*alone, "sh", "-c", f'{hide} exec "$@"', "sh"]
    )
    assert "NOT TESTED. There is no MariaDB or MySQL server on this machine" in said
    assert "apt-get install" in said
    assert said.splitlines()[-1].startswith("  make test ")
    assert (output / "my-service" / ".venv").is_dir()


def test_no_network(tmp_path: Path) -> None:
    """Let every request end at a port where nobody listens."""
    nowhere = "http://127.0.0.1:9"
    env = environment(HTTPS_PROXY=nowhere, HTTP_PROXY=nowhere, ALL_PROXY=nowhere)
    said = generate(tmp_path, env=env | {"UV_CACHE_DIR": f"{tmp_path}/cache"})
    assert "NOT TESTED. `" in said
    assert "is the network there?" in said
    assert (tmp_path / "my-service" / "pyproject.toml").exists()
