"""The fields of a resource: `name:type`, and what each type is in the files that `resource.py` writes."""

import keyword
import re
import unicodedata
from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy import Uuid

from app.models import Base

# What the files use under these names: as variables, and in the classes that have the fields.
TAKEN = """
    after bindparam body cache changes client count create created data databases docs given limit
    more names numbers page pytest queries response router select sent session settings transaction
    update wanted
"""
TAKEN_FIELDS = """
    after bool created_at date datetime dict float given i id int l limit list mapped_column metadata
<% if cookiecutter.database == "postgresql" %>
    func kwargs more o queries registry self str wanted
<% else %>
    kwargs more o queries registry self str text wanted
<% endif %>
"""
TAKEN_CLASSES = """
    Annotated Any APIRouter AwareDatetime Base BaseModel BigInteger Boolean ConfigDict Create Date
    DateTime Decimal Double Enum Field ForeignKey Identity Integer JSON JSONB JsonValue Literal
    Mapped Numeric Query Read Response String StringConstraints Text Update UTCDateTime Uuid UUID
"""


class Refused(RuntimeError):
    """What was asked for cannot be made; nothing was written."""


@dataclass(frozen=True)
class Kind:
    """A type of field: in Python, in the table, in the schemas, and code for values to test it by.

    `sample` is a valid value that differs by `number`, or by `name` as well.
    """

    python: str
    column: str
    schema: str
    sample: str
    bad: tuple[str, ...]
    may_be: tuple[str, ...] = ("unique", "index")
    # Whether it is stored as it was given, to the letter of its JSON.
    as_given: bool = True


def text_kind(column: str, length: int, may_be: tuple[str, ...]) -> Kind:
    """Return a type for texts up to a length."""
    schema = f'Annotated[str, StringConstraints(max_length={length:_}, pattern=r"^[^\\x00]*$")]'
    bad = ("5", '"a\\x00"', f'"x" * {length + 1}')
    return Kind("str", column, schema, 'f"{name} {{number}}"', bad, may_be)


def whole_kind(column: str, bits: int) -> Kind:
    """Return a type for whole numbers."""
    end = f"2**{bits - 1}"
    schema = f"Annotated[int, Field(ge=-({end}), lt={end})]"
    return Kind("int", column, schema, "number", ('"x"', "1.5", end, f"-({end}) - 1"))


KINDS = {
    "str": text_kind("String(200)", 200, ("unique", "index")),
    "text": text_kind("Text", 10_000, ()),
    "int": whole_kind("Integer", 32),
    "bigint": whole_kind("BigInteger", 64),
    "bool": Kind("bool", "Boolean", "bool", "number % 2 == 0", ('"x"', "5"), ("index",)),
    "float": Kind(
        "float",
        "Double",
        "Annotated[float, Field(allow_inf_nan=False)]",
        "number + 0.5",
        ('"x"', '"nan"'),
    ),
    "decimal": Kind(
        "Decimal",
        "Numeric(12, 2)",
        "Annotated[Decimal, Field(max_digits=12, decimal_places=2)]",
        'f"{{number}}.50"',
        ('"x"', '"1.234"', '"1e20"', '"NaN"'),
        as_given=False,
    ),
    "date": Kind(
        "date",
        "Date",
        "Annotated[date, Field(ge=date(1000, 1, 1))]",
        'f"2026-01-{{1 + number % 28:02}}"',
        ('"x"', '"2026-02-30"'),
    ),
    # At the ends of time, that of another zone would have no UTC.
    "datetime": Kind(
        "datetime",
<% if cookiecutter.database == "postgresql" %>
        "DateTime(timezone=True)",
<% else %>
        "UTCDateTime",
<% endif %>
        "Annotated[AwareDatetime, Field(ge=datetime(1000, 1, 1, tzinfo=UTC),"
        " lt=datetime(9999, 12, 31, tzinfo=UTC))]",
        'f"2026-01-02T03:04:{{number % 60:02}}Z"',
        ('"x"', '"2026-01-02T03:04:05"', '"9999-12-31T23:59:59-14:00"'),
        as_given=False,
    ),
    "uuid": Kind("UUID", "Uuid", "UUID", "str(uuid4())", ('"x"', "5")),
    "json": Kind(
        "dict[str, Any]",
<% if cookiecutter.database == "postgresql" %>
        "JSONB(none_as_null=True)",
<% else %>
        "JSON(none_as_null=True)",
<% endif %>
        "dict[str, JsonValue]",
        '{{"number": number}}',
        ('"x"', "[]"),
        (),
    ),
}


@dataclass(frozen=True)
class Field:
    """A field, as the templates read it."""

    name: str
    type: str
    kind: Kind
    # What the schemas call its type.
    alias: str
    nullable: bool
    unique: bool
    index: bool
    # What it refers to, if so.
    table: str = ""

    @property
    def column(self) -> str:
        """Return its name in the table and over HTTP."""
        return f"{self.name}_id" if self.table else self.name

    @property
    def sample(self) -> str:
        """Return code for a valid value, which differs by `number`."""
        return self.kind.sample.format(name=self.name)

    @property
    def arguments(self) -> str:
        """Return what the column is made of."""
<% if cookiecutter.database == "mysql" %>
        if self.type == "str" and self.unique:
            return 'String(200, collation="utf8mb4_bin"), unique=True'
<% endif %>
        marks = [f"{mark}=True" for mark in ("unique", "index") if getattr(self, mark)]
        return ", ".join([self.kind.column, *marks])

    @property
    def is_filter(self) -> bool:
        """Return whether a list can be asked for by it."""
        return self.unique or self.index or self.type in ("bool", "enum")

    def optional(self, annotation: str) -> str:
        """Return an annotation of this field, with None where it may be that."""
        return f"{annotation} | None" if self.nullable else annotation


def camel(name: str) -> str:
    """Return the class of a name: `OrderItem` of `order_item`."""
    return "".join(part.capitalize() for part in name.split("_"))


def plain(choice: str) -> str:
    """Return a choice without case and accents, by which not every database tells texts apart."""
    letters = unicodedata.normalize("NFKD", choice.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def check_name(what: str, name: str) -> None:
    """Raise Refused for what cannot be a name."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > 40:
        raise Refused(f"{what}={name}: write up to 40 small letters, digits and single _")
    taken = TAKEN_FIELDS if what == "field" else TAKEN
    if {name, camel(name)} & {*keyword.kwlist, *taken.split()}:
        raise Refused(f"{what}={name}: Python or the files use that word; choose another")


def reference(words: str, target: str) -> tuple[Kind, str]:
    """Return the type of a field that refers to a row of another model, and that one's table."""
    tables = {mapper.class_.__name__: mapper.local_table for mapper in Base.registry.mappers}
    if camel(target) not in tables:
        there = ", ".join(sorted(tables)) or "none yet"
        raise Refused(f"{words}: no model {camel(target)} to refer to; there is {there}")
    table = tables[camel(target)]
    is_uuid = isinstance(table.c.id.type, Uuid)
    kind = Kind(
        "UUID" if is_uuid else "int",
        f'ForeignKey("{table}.id")',
        "UUID" if is_uuid else "Annotated[int, Field(ge=1, lt=2**63)]",
        f"await existing_{table}(client)",
        ('"x"', "-1"),
        (),
    )
    return kind, str(table)


def parse_field(words: str, resource: str) -> Field:
    """Read `name:type`, then `?` for what may be null, `:unique` and `:index`. Raises Refused."""
    found = re.fullmatch(r"(\w+):(\w+)(?:\(([^()]*)\))?((?:\?|:unique|:index)*)", words)
    if not found:
        raise Refused(f"{words}: write name:type, then ? for what may be null, :unique, :index")
    name, type_, inside, marks = found.groups()
    check_name("field", name)
    if hasattr(BaseModel, name) or name.startswith("model_"):
        raise Refused(f"{words}: pydantic has {name} for itself; choose another name")
    table, alias = "", camel(name)
    if alias in {camel(resource), *TAKEN_CLASSES.split()}:
        alias = camel(f"{resource}_{name}")
    if type_ == "enum":
        choices = [choice.strip() for choice in (inside or "").split(",")]
        good = all(re.fullmatch(r"\w{1,40}", choice) for choice in choices)
        if not good or len({plain(choice) for choice in choices}) < len(choices):
            raise Refused(f"{words}: name each choice once, such as enum(open,paid)")
<% if cookiecutter.database == "postgresql" %>
        # The server cuts longer names, and needs four letters more to change the members.
        if len(f"{resource}_{name}_old") > 63:
            raise Refused(f"{words}: too long, {resource}_{name} names its type; shorten one")
<% endif %>
        said = ", ".join(f'"{choice}"' for choice in choices)
        column = f'Enum({said}, name="{resource}_{name}")'
        sample = f"[{said}][number % {len(choices)}]"
        kind = Kind("str", column, f"Literal[{said}]", sample, ('"?"', "5"), ("index",))
    elif type_ == "ref":
        kind, table = reference(words, inside or name)
        alias += "Id"
    elif type_ in KINDS and inside is None:
        kind = KINDS[type_]
    else:
        raise Refused(f"{words}: no such type; there is {', '.join(KINDS)}, enum(a,b,c), ref")
    for mark in ("unique", "index"):
        if f":{mark}" in marks and mark not in kind.may_be:
            raise Refused(f"{words}: {type_} takes no :{mark}")
    if not kind.schema.startswith(("Annotated", "Literal")):
        alias = kind.schema
    index = ":index" in marks or bool(table)
    return Field(name, type_, kind, alias, "?" in marks, ":unique" in marks, index, table)
