"""Take the files of a resource away: `make remove`."""

import os
import re
from pathlib import Path

from dotenv import dotenv_values

from app import models
from dev import database, server
from dev.fields import Refused, camel
from dev.sources import (
    PROJECT,
    VERSIONS,
    Resource,
    changed,
    migrate_anew,
    registered,
    run,
    write_revision,
)
<% if cookiecutter.sync_bridge == "yes" %>

# What shows how old code reads the example, and goes with it.
COMPANIONS = {"user": ["reports"]}
<% endif %>


def is_applied(revisions: list[str]) -> bool:
    """Return whether the database of `DATABASE_URL`, else that of `make dev`, has one of them."""
    named = "DATABASE_URL" in os.environ | dotenv_values(PROJECT / ".env")
    if not named and not server.data_folder(PROJECT).exists():
        return False
    said = run("dev", "run", "alembic", "history", "--rev-range", "base:current")
    return any(revision in said for revision in revisions)


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


def check_later_revisions(name: str) -> None:
    """Raise Refused when the revisions that are left need what has gone."""
    try:
        with database.running() as url:
            migrate_anew(url)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        raise Refused(f"name={name}: a later revision needs its table: {last}") from None


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
        rf"from app\.models import (\([^)]*|.*)\b{camel(name)}\b|app\.(models|schemas)\.{name}\b"
        rf"|(relationship\(|Mapped\[(list\[)?)\s*\"{camel(name)}\b"
        rf"|app\.api\.{resource.plural}\b|\btest_{resource.plural}\b|\"{resource.plural}\.id\""
    )
    files: dict[Path, str | None] = dict.fromkeys(gone)
    files |= registered(resource, False<% if cookiecutter.sync_bridge == "yes" %>, *more<% endif %>)
    users = [
        str(path.relative_to(PROJECT))
        for folder in ("app", "tests")
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if path not in gone and uses.search(files.get(path) or path.read_text())
    ]
    if users:
        raise Refused(f"name={name}: {', '.join(users)} would miss it; change those first")
    revisions = {
        path: found[1]
        for path in resource.revisions
        if (found := re.search(r"^revision = ['\"](\w+)", path.read_text(), re.MULTILINE))
    }
    if is_applied(list(revisions.values())):
        with database.running() as url, changed(files):
            write_revision(url, f"drop {resource.plural}")
    else:
        changes = without(revisions)
        with changed(files | changes):
            if any(changes.values()):
                check_later_revisions(name)
    for path in files:
        print(path.relative_to(PROJECT))
    return 0
