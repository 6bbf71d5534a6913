"""What proves the core stays green whatever becomes of the example."""

import re
from pathlib import Path

import pytest
from conftest import (
    VARIANTS,
    Render,
    Service,
    Variant,
    copy_service,
    environment,
    generate,
    passed,
    python,
    run,
    words,
)

# Each is put in place of the other in all files of the domain, as somebody would edit them.
CHANGES = {
    "users": "people",
    "full_name": "name_in_full",
    "    created_at: Mapped": (
        "    phone: Mapped[str] = mapped_column(String(20))\n    created_at: Mapped"
    ),
    '        sa.Column(\n            "created_at"': (
        '        sa.Column("phone", sa.String(20), nullable=False),\n'
        '        sa.Column(\n            "created_at"'
    ),
}


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_without_the_example_all_is_green(variant: Variant, tmp_path: Path) -> None:
    generate(tmp_path, "run_tests=no", *words(variant.rows[-1]))
    project = tmp_path / "my-service"
    # All other tests have the newest packages: these the oldest that the service says it runs on.
    env = environment(UV_RESOLUTION="lowest-direct")
    said = run("make", "remove", "name=user", cwd=project, env=env).stdout
    assert "app/models/user.py" in said
    assert "Success: no issues" in run("make", "lint", cwd=project, env=env).stdout
    # One process shares one pool; others have two.
    processes = "0" if "yes" not in variant else "2"
    assert passed(python(project, "-m", "pytest", "-n", processes)) > 300
    if "yes" not in variant:
        said = run("make", "bench", "ARGS=--rounds 1 --pool-sizes 2", cwd=project, env=env).stdout
        assert "GET /health/ready" in said


def test_the_core_does_not_know_the_example(service: Service, tmp_path: Path) -> None:
    project = copy_service(service, tmp_path / "my-service")
    [revision] = (project / "migrations/versions").glob("*_create_users.py")
    names = ("models/user.py", "schemas/user.py", "api/users.py")
    for path in (*(project / "app" / name for name in names), revision):
        said = path.read_text()
        for old, new in CHANGES.items():
            said = said.replace(old, new)
        path.write_text(said)
    assert passed(python(project, "-m", "pytest", "tests/core")) > 300


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_no_file_of_the_core_names_the_example(variant: Variant, render: Render) -> None:
    project = render(**variant.answers)
    for path in (project / "tests/core").glob("*.py"):
        said = path.read_text()
        assert not re.search(r"\bUser\b(?! lock)|/users|app\.(models|schemas)\.user", said), path
        for table in re.findall(r'__tablename__ = "(\w+)"', said):
            assert table.startswith("_test_"), path
