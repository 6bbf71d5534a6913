"""`make resource` writes what a person would have written and proves it, and can be undone."""

import json
import re
from pathlib import Path

import pytest
from conftest import Service, commit, copy_service, environment, python, run

SHOP = "number:str:unique total:decimal placed_at:datetime note:text? user:ref"
ALL = (
    "name:str:index a:int? b:bigint c:bool d:float? e:decimal? f:date g:datetime? h:uuid:unique"
    " n:json j:json? k:enum(red, green)? ll:enum(x,y):index m:text owner:ref(user)?"
)

# What is special about the example, beside what `make resource` would write for it.
SPECIAL = {
    "app/models/user.py": 2,
    "app/schemas/user.py": 4,
    "app/api/users.py": 0,
}


@pytest.fixture
def project(service: Service, tmp_path: Path) -> Path:
    """A copy of a service, in a repository of its own."""
    copy = copy_service(service, tmp_path / "my-service")
    run("git", "init", "--quiet", cwd=copy)
    commit(copy, "Begin")
    return copy


def status(project: Path) -> str:
    """Return what has changed since the last commit."""
    return run("git", "status", "--short", cwd=project).stdout


def make(project: Path, *words: str, code: int = 0) -> str:
    """Run make; return what it says."""
    return run("make", *words, cwd=project, code=code).stdout


def is_clean(project: Path) -> None:
    """Check style, format and types of what was written."""
    python(project, "-m", "ruff", "check")
    python(project, "-m", "ruff", "format", "--check")
    python(project, "-m", "mypy")


def test_a_resource_comes_with_its_proof_and_goes_without_a_trace(project: Path) -> None:
    said = make(project, "resource", "name=order", f"fields={SHOP}")
    found = re.search(r"^(\d+) passed in ", said, re.MULTILINE)
    assert found, said
    assert int(found[1]) >= 20
    is_clean(project)
    refused = make(project, "remove", "name=user", code=2)
    assert "name=user: app/models/order.py, tests/test_orders.py would miss it" in refused

    make(project, "remove", "name=order")
    assert status(project) == ""


def test_every_type_and_a_key_of_another(project: Path) -> None:
    plural = "plural=boxes_of_which_a_thing_is_kept_in"
    said = make(project, "resource", "name=thing_box", plural, f"fields={ALL}", "key=uuid")
    assert re.search(r"^\d+ passed in ", said, re.MULTILINE), said
    fields = "fields=thing_box:ref person:enum(adult,child):index read:bool"
    # With it, the modules that main.py imports need more than a line.
    plural = "plural=people_to_whom_something_belongs"
    said = make(project, "resource", "name=person", plural, fields)
    assert re.search(r"^\d+ passed in ", said, re.MULTILINE), said
    is_clean(project)
    assert "from app.api import (\n" in (project / "app/main.py").read_text()
    make(project, "remove", "name=person")
    make(project, "remove", "name=thing_box")
    assert status(project) == ""


# What cannot be made, and why.
REFUSED = [
    ("orders", "a:int", "write the singular, such as order"),
    ("none", "a:int", "Python or the files use that word"),
    ("database", "a:int", "Python or the files use that word"),
    ("t2", "a:int", "write a longer one"),
    ("Order", "a:int", "write up to 40 small letters"),
    ("class", "a:int", "Python or the files use that word"),
    ("session", "a:int", "Python or the files use that word"),
    ("user", "a:int", "there is app/models/user.py"),
    ("error", "a:int", "there is app/schemas/error.py, app/api/errors.py already"),
    ("decimal", "a:int", "there is Decimal already"),
    ("order", "", "name at least one, and each once"),
    ("order", "a:int a:str", "name at least one, and each once"),
    ("order", "a", "write name:type"),
    ("order", "a:money", "no such type; there is str, text, int"),
    ("order", "a:int:primary", "write name:type"),
    ("order", "none:int", "Python or the files use that word"),
    ("order", "order_id:int", "two types would be called OrderId"),
    ("order", "create:int", "two types would be called OrderCreate"),
    ("order", "a1:int a_1:int", "two types would be called A1"),
    ("order", "for:int", "Python or the files use that word"),
    ("order", "self:int", "Python or the files use that word"),
    ("order", "kwargs:int", "Python or the files use that word"),
    ("order", "id:int", "Python or the files use that word"),
    ("order", "i:int", "Python or the files use that word"),
    ("order", "json:str", "pydantic has json for itself"),
    ("order", "model_x:str", "pydantic has model_x for itself"),
    ("order", "a:json:unique", "json takes no :unique"),
    ("order", "a:enum", "name each choice once"),
    ("order", "a:enum(x,x)", "name each choice once"),
    ("order", "a:enum(x,X)", "name each choice once"),
    ("order", "a:enum(é,E)", "name each choice once"),
    ("order", "customer:ref", "no model Customer to refer to; there is User"),
]

# Asks for each, in one process.
ASK = """
import json, sys
from dev import resource
for name, fields in json.loads(sys.argv[1]):
    try:
        resource.make(name, fields, "int", "")
    except (SystemExit, RuntimeError) as refusal:
        print(json.dumps([name, fields, str(refusal)]))
"""


def test_what_cannot_be_made_is_refused_in_one_line(project: Path) -> None:
    asked = json.dumps([[name, fields] for name, fields, _ in REFUSED])
    said = [json.loads(line) for line in python(project, "-c", ASK, asked).splitlines()]
    assert len(said) == len(REFUSED)
    for (name, fields, reason), refused in zip(REFUSED, said, strict=True):
        assert refused[:2] == [name, fields]
        assert reason in refused[2]
        assert len(refused[2].splitlines()) == 1
    # As a command says it.
    name, fields, _ = REFUSED[0]
    line = python(project, "-m", "dev", "resource", name, fields, code=1)
    assert line == f"{said[0][2]}\n"
    assert status(project) == ""


def test_a_type_whose_name_the_server_would_cut_is_refused(service: Service) -> None:
    """MySQL has no types with names."""
    read = f"from dev.fields import *; parse_field('{'a' * 30}:enum(x)', '{'b' * 30}')"
    is_cut = service.project.parent.name == "postgresql"
    said = python(service.project, "-c", read, code=int(is_cut))
    assert ("too long" in said) == is_cut


def test_what_is_needed_elsewhere_stays(project: Path) -> None:
    python(project, "-m", "dev", "resource", "order", "a:int")
    model = project / "app/models/order.py"
    model.write_text(model.read_text() + "    more: Mapped[int | None] = mapped_column(Integer)\n")
    revision = "from dev import database, sources\nwith database.running() as url:\n    "
    python(project, "-c", f"{revision}sources.write_revision(url, 'add more')")
    commit(project, "Add orders")

    said = python(project, "-m", "dev", "remove", "order", code=1)
    assert "name=order: a later revision needs its table" in said
    assert len(said.splitlines()) == 1

    (project / "app/jobs.py").write_text("from app.models import (\n    Base,\n    Order,\n)\n")
    (project / "app/job.py").write_text('order: Mapped["Order | None"]\n')
    said = python(project, "-m", "dev", "remove", "order", code=1)
    assert "name=order: app/job.py, app/jobs.py would miss it" in said
    assert {line[:2] for line in status(project).splitlines()} == {"??"}

    main = project / "app/main.py"
    main.write_text(main.read_text().replace("(orders.router)", '(orders.router, prefix="/v1")'))
    said = python(project, "-m", "dev", "remove", "order", code=1)
    assert said == "app/main.py: write app.include_router(orders.router), without more\n"


def test_where_it_was_applied_its_table_is_dropped(project: Path) -> None:
    make(project, "resource", "name=order", "fields=a:int:index user:ref")
    make(project, "migrate")
    commit(project, "Add orders")

    make(project, "remove", "name=order")

    changes = [line for line in status(project).splitlines() if "migrations" in line]
    assert changes
    assert all(re.search(r"^\?\? .*drop_orders\.py$", line) for line in changes)
    make(project, "migrate")
    python(project, "-m", "dev", "run", "alembic", "check")
    python(project, "-m", "dev", "run", "alembic", "downgrade", "base")


def test_an_error_half_way_leaves_nothing(project: Path) -> None:
    env = environment(TEST_DATABASE_URL="nonsense://nowhere")
    python(project, "-m", "dev", "resource", "order", "a:int", env=env, code=1)
    assert status(project) == ""


def test_the_example_is_what_this_writes(project: Path) -> None:
    shipped = {path: (project / path).read_text().splitlines() for path in SPECIAL}
    make(project, "remove", "name=user")
    make(project, "resource", "name=user", "fields=email:str:unique full_name:str?")
    for path, lines in shipped.items():
        written = (project / path).read_text().splitlines()
        special = [line for line in lines if line not in written]
        assert len(special) <= SPECIAL[path], (path, special)
    is_clean(project)
