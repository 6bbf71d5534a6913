"""The files of a resource, and how they are written all or not at all."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from dev import database
from dev.fields import Refused, camel

PROJECT = Path(__file__).parent.parent
MAIN = PROJECT / "app/main.py"
MODELS = PROJECT / "app/models/__init__.py"
VERSIONS = PROJECT / "migrations/versions"


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
    migrate_anew(at, "alembic", "revision", "--autogenerate", "-m", message)


def migrate_anew(at: URL, *then: str) -> None:
    """Run all revisions on a new database, and then a Python module if one is named."""
    with database.temporary(at, f"resource_{os.getpid()}") as temporary:
        url = temporary.render_as_string(hide_password=False)
        settings = {"DATABASE_URL": url, "MIGRATION_DATABASE_URL": url}
        run("alembic", "upgrade", "head", **settings)
        if then:
            run(*then, **settings)
