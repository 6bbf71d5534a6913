"""Write the files of a resource, and take them away: `make resource`, `make remove`.

What is written is in `dev/templates`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from mako.template import Template
from sqlalchemy import URL

from app import models
from dev import database, server
from dev.fields import TAKEN_CLASSES, Refused, camel, check_name, parse_field

PROJECT = Path(__file__).parent.parent
TEMPLATES = Path(__file__).parent / "templates"
MAIN = PROJECT / "app/main.py"
MODELS = PROJECT / "app/models/__init__.py"
VERSIONS = PROJECT / "migrations/versions"
<% if cookiecutter.sync_bridge == "yes" %>

# What shows how old code reads the example, and goes with it.
COMPANIONS = {"user": ["reports"]}
<% endif %>


@dataclass(frozen=True)
class Resource:
    """A resource, by its name in the singular and in the plural, which is that of its table."""

    name: str
    plural: str

    @property
    def files(self) -> dict[str, Path]:
        """Return its files, by the template that writes them."""
        return {
            "model": PROJECT / f"app/models/{self.name}.py",
            "schema": PROJECT / f"app/schemas/{self.name}.py",
            "routes": PROJECT / f"app/api/{self.plural}.py",
            "test": PROJECT / f"tests/test_{self.plural}.py",
        }

    @property
    def revisions(self) -> list[Path]:
        """Return the revisions that made its table, by what they say, the oldest first."""
        line = re.compile(rf'"""(\d+ of \d+ )?create {self.plural}\n')
        return sorted(path for path in VERSIONS.glob("*.py") if line.match(path.read_text()))


def registered(resource: Resource, there: bool, *more: str) -> dict[Path, str]:
    """Return `main.py` and `models/__init__.py` with a resource, or without it and more modules.

    Raises Refused.
    """
    main, lists = MAIN.read_text(), MODELS.read_text()
    last = "    app.include_router(health.router)\n"
    base = "from app.models.base import Base\n"
    if last not in main or base not in lists:
        raise Refused(f"Write back what this looks for: {last.strip()} in app/main.py, and {base}")
    model = f"from app.models.{resource.name} import {camel(resource.name)}\n"
    for module in (resource.plural, *more):
        router = f"    app.include_router({module}.router)\n"
        main = main.replace(router, "").replace(last, (router if there else "") + last)
        main = with_name(main, r"from app\.api import (\([^)]*\)|.*)", module, there, imports)
    lists = lists.replace(model, "").replace(base, base + (model if there else ""))
    lists = with_name(lists, r"__all__ = \[([^]]*)\]", camel(resource.name), there, exports)
    return {MAIN: main, MODELS: lists}


def imports(names: list[str]) -> str:
    """Return the line of `main.py` that imports the routes."""
    return f"from app.api import {', '.join(names)}"


def exports(names: list[str]) -> str:
    """Return the list of `models/__init__.py`."""
    quoted = [f'"{name}"' for name in names]
    return f"__all__ = [{', '.join(quoted)}]"


def with_name(
    text: str, pattern: str, name: str, there: bool, write: Callable[[list[str]], str]
) -> str:
    """Return a text with or without a name in a list of names. Raises Refused."""
    found = re.search(pattern, text)
    if not found:
        raise Refused(f"There is no list of names any more where {write(['…'])} was")
    names = set(re.findall(r"\w+", found[1])) - {name} | ({name} if there else set())
    return text.replace(found[0], write(sorted(names)))


def run(*words: str, **settings: str) -> None:
    """Run a Python module, with these settings. Raises RuntimeError with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=PROJECT,
        env=os.environ | settings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}:\n{done.stdout}")


@contextmanager
def changed(files: dict[Path, str | None]) -> Iterator[None]:
    """Write or delete files, tidied; put all and the revisions back if something goes wrong."""
    before = {path: path.read_bytes() for path in {*files, *VERSIONS.glob("*.py")} if path.exists()}
    try:
        for path, content in files.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(content)
        written = [str(path) for path, content in files.items() if content is not None]
        run("ruff", "check", "--fix", "--quiet", *written)
        run("ruff", "format", "--quiet", *written)
        yield
    except BaseException:
        for path in {*files, *VERSIONS.glob("*.py")} - before.keys():
            path.unlink(missing_ok=True)
        for path, old in before.items():
            path.write_bytes(old)
        raise


def write_revision(at: URL, message: str) -> None:
    """Write a revision from the models, by a database that is made by those before it."""
    name = f"resource_{os.getpid()}"
    url = database.create_database(at, name).render_as_string(hide_password=False)
    settings = {"DATABASE_URL": url, "MIGRATION_DATABASE_URL": url}
    try:
        run("alembic", "upgrade", "head", **settings)
        run("alembic", "revision", "--autogenerate", "-m", message, **settings)
    finally:
        database.drop_database(at, name)


def plural_of(name: str) -> str:
    """Return the plural of an English noun; `plural=` is for the others."""
    if re.search(r"[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    return name + ("es" if re.search(r"(s|x|z|ch|sh)$", name) else "s")


def words_of(name: str) -> str:
    """Return a name as people read it."""
    return name.replace("_", " ")


def make(name: str, fields: str, key: str, plural: str) -> int:
    """Write a resource, and return the exit code of its tests. Raises Refused."""
    check_name("name", name)
    if re.search(r"[^siu]s$", name):
        raise Refused(f"name={name}: write the singular, such as {name.removesuffix('s')}")
    resource = Resource(name, plural or plural_of(name))
    check_name("plural", resource.plural)
    if key not in ("int", "uuid") or resource.plural == name:
        raise Refused(f"key={key} plural={plural}: write key=int or key=uuid, and another plural")
    there = [str(path.relative_to(PROJECT)) for path in resource.files.values() if path.exists()]
    there += [each for each in models.Base.metadata.tables if each == resource.plural]
    there += [each for each in {*TAKEN_CLASSES.split(), *vars(models)} if each == camel(name)]
    if there:
        raise Refused(f"name={name}: there is {', '.join(there)} already; choose another name")
    # A choice's list may have blanks.
    each = [parse_field(words, name) for words in re.sub(r",\s+", ",", fields).split()]
    if not each or len({field.column for field in each}) < len(each):
        raise Refused(f"fields={fields}: name at least one, and each once")
    words = words_of(name)
    values = {
        **{"name": name, "plural": resource.plural, "words": words, "words_of": words_of},
        **{"Name": camel(name), "NAME": name.upper(), "NAMES": resource.plural.upper()},
        "a_words": f"{'an' if words[0] in 'aeio' else 'a'} {words}",
        "path": lambda plural: "/" + plural.replace("_", "-"),
        "key": key,
        "fields": each,
        "filters": [field for field in each if field.is_filter],
    }
    files: dict[Path, str | None] = {**registered(resource, there=True)}
    for template, path in resource.files.items():
        files[path] = Template(filename=str(TEMPLATES / f"{template}.py.mako")).render(**values)
    with database.running() as url:
        os.environ["TEST_DATABASE_URL"] = url.render_as_string(hide_password=False)
        with changed(files):
            write_revision(url, f"create {resource.plural}")
        for path in (*files, *resource.revisions):
            print(path.relative_to(PROJECT))
        tests = [sys.executable, "-m", "pytest", "-q", str(resource.files["test"])]
        return subprocess.run(tests, cwd=PROJECT).returncode


def is_applied(revisions: list[str]) -> bool:
    """Return whether the database of `DATABASE_URL`, else that of `make dev`, has one of them."""
    named = "DATABASE_URL" in os.environ | dotenv_values(PROJECT / ".env")
    if not named and not server.data_folder(PROJECT).exists():
        return False
    history = ["-m", "dev", "run", "alembic", "history", "--rev-range", "base:current"]
    done = subprocess.run([sys.executable, *history], cwd=PROJECT, text=True, capture_output=True)
    if done.returncode:
        raise Refused(f"The database does not say which revisions it has:\n{done.stderr.strip()}")
    return any(revision in done.stdout for revision in revisions)


def without(revisions: dict[Path, str]) -> dict[Path, str | None]:
    """Return what is to be written when revisions go: who came after them comes after the first."""
    files: dict[Path, str | None] = dict.fromkeys(revisions)
    before: dict[str, str] = {}
    for path, revision in revisions.items():
        found = re.search(r"^down_revision = (.+)$", path.read_text(), re.MULTILINE)
        assert found
        last = before[f'"{revision}"'] = before.get(found[1], found[1])
        before[revision] = "" if last == "None" else last.strip('"')
    for path in VERSIONS.glob("*.py"):
        old = path.read_text()
        new = re.sub(
            r"^(After: |down_revision = )(.+)$",
            lambda found: (found[1] + before.get(found[2], found[2])).rstrip(),
            old,
            flags=re.MULTILINE,
        )
        if path not in files and new != old:
            files[path] = new
    return files


def remove(name: str) -> int:
    """Take a resource away, with its table where that was made. Raises Refused."""
    tables = {each.class_.__name__: each.local_table for each in models.Base.registry.mappers}
    if camel(name) not in tables:
        raise Refused(f"name={name}: no such model; there is {', '.join(sorted(tables)) or 'none'}")
    resource = Resource(name, str(tables[camel(name)]))
    gone = set(resource.files.values())
<% if cookiecutter.sync_bridge == "yes" %>
    more = COMPANIONS.get(name, [])
    for each in more:
        gone |= {PROJECT / f"app/api/{each}.py", PROJECT / f"tests/test_{each}.py"}
<% endif %>
    uses = re.compile(
        rf"from app\.models import .*\b{camel(name)}\b|app\.(models|schemas)\.{name}\b"
        rf"|app\.api\.{resource.plural}\b|\btest_{resource.plural}\b|\"{resource.plural}\.id\""
    )
    users = [
        str(path.relative_to(PROJECT))
        for folder in ("app", "tests")
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if path not in gone | {MODELS} and uses.search(path.read_text())
    ]
    if users:
        raise Refused(f"name={name}: {', '.join(users)} would miss it; change those first")
    files: dict[Path, str | None] = dict.fromkeys(gone)
    files |= registered(resource, False<% if cookiecutter.sync_bridge == "yes" %>, *more<% endif %>)
    revisions = {
        path: found[1]
        for path in resource.revisions
        if (found := re.search(r"^revision = ['\"](\w+)", path.read_text(), re.MULTILINE))
    }
    if is_applied(list(revisions.values())):
        with database.running() as url, changed(files):
            write_revision(url, f"drop {resource.plural}")
    else:
        with changed(files | without(revisions)):
            pass
    for path in files:
        print(path.relative_to(PROJECT))
    return 0
