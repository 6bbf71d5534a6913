"""The files of a resource, and how they are written all or not at all."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
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

    Ruff puts imports together, and drops those without a use. Raises Refused.
    """
    main, lists = MAIN.read_text(), MODELS.read_text()
    routes = "\nfrom app.api import "
    last = "    app.include_router(health.router)\n"
    base = "from app.models.base import Base\n"
    exports = re.search(r"__all__ = \[([^]]*)\]", lists)
    if routes not in main or last not in main or base not in lists or exports is None:
        raise Refused(
            f"Write back what this looks for: {routes.strip()} … and {last.strip()} in app/main.py,"
            f" {base.strip()} and __all__ = [ in app/models/__init__.py"
        )
    for module in (resource.plural, *more):
        main = main.replace(f"    app.include_router({module}.router)\n", "")
        if re.search(rf"\b{module}\.router\b", main):
            raise Refused(f"app/main.py: write app.include_router({module}.router), without more")
    name = camel(resource.name)
    model = f"from app.models.{resource.name} import {name}\n"
    lists = lists.replace(model, "")
    names = set(re.findall(r"\w+", exports[1])) - {name}
    # Ruff keeps what was too long for one line apart, also when it fits again.
    if apart := re.search(r"from app\.api import \(([\w\s,]+)\)", main):
        modules = " ".join(apart[1].split()).removesuffix(",")
        main = main.replace(apart[0], f"from app.api import {modules}")
    if there:
        main = main.replace(last, f"    app.include_router({resource.plural}.router)\n{last}")
        main = main.replace(routes, f"{routes}{resource.plural}{routes}", 1)
        lists = lists.replace(base, base + model)
        names.add(name)
    quoted = ", ".join(f'"{each}"' for each in sorted(names))
    return {MAIN: main, MODELS: lists.replace(exports[0], f"__all__ = [{quoted}]")}


def run(*words: str, **settings: str) -> str:
    """Run a Python module, with these settings; return what it said. Raises RuntimeError with it."""
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
    return done.stdout


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
