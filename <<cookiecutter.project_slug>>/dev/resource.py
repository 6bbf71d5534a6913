"""Write the files of a resource: `make resource`. What is written is in `dev/templates`."""

import os
import re
import subprocess
import sys
from pathlib import Path

from mako.template import Template

from app import models
from dev import database
from dev.fields import TAKEN_CLASSES, Refused, camel, check_name, parse_field
from dev.sources import PROJECT, Resource, changed, registered, write_revision

TEMPLATES = Path(__file__).parent / "templates"


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
    if not plural and re.search(r"[^siu]s$", name):
        singular = name.removesuffix("s")
        raise Refused(f"name={name}: write the singular, such as {singular}, or plural= as well")
    if camel(name) == name.upper():
        raise Refused(f"name={name}: write a longer one, which differs in small letters")
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
    types = [f"{camel(name)}{end}" for end in ("Create", "Id", "Page", "Read", "Update")]
    types += [field.alias for field in each if field.alias != field.kind.schema]
    if twice := [one for one in types if types.count(one) > 1]:
        raise Refused(f"fields={fields}: two types would be called {twice[0]}; rename a field")
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
            # Before what the tests say, also in a pipe.
            print(path.relative_to(PROJECT), flush=True)
        tests = [sys.executable, "-m", "pytest", "-q", str(resource.files["test"])]
        return subprocess.run(tests, cwd=PROJECT).returncode
