"""What a single statement must be like to do what a session would do: see `statements.py`."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from sqlalchemy import BindParameter, Column, Select, SelectBase, TextualSelect
from sqlalchemy.orm import Mapper, class_mapper
from sqlalchemy.sql import ClauseElement, visitors
from typing_extensions import is_typeddict

logger = logging.getLogger(__name__)

# So many statements made by the same line are made again and again, not once for each of some kinds.
TOO_MANY = 100

made_by: Counter[tuple[str, int]] = Counter()

<% if cookiecutter.database == "postgresql" %>
IN_INSTEAD = 'compare with one array: `column == any_(bindparam("ids", type_=ARRAY(BigInteger)))`'
<% else %>
IN_INSTEAD = "use a session"
<% endif %>


def parameters_of(statement: ClauseElement) -> Iterator[BindParameter[Any]]:
    """Yield a statement's named parameters. Raises TypeError for text that values change."""
    for element in visitors.iterate(statement):
        if isinstance(element, BindParameter):
            if element.expanding or element.literal_execute:
                raise TypeError(
                    "The text of this statement depends on its values; in place of"
                    f" `column.in_(…)` {IN_INSTEAD}"
                )
            if not element.unique:
                yield element


def names_of(statement: Any, model: Any) -> list[str] | None:
    """Return the names of the columns, None for a single value. Raises TypeError."""
    if not isinstance(statement, SelectBase):
        raise TypeError(
            "Neither the names nor the types of the columns are known: write `select(…)`, or"
            " `text(…).columns(User.id, User.email)`"
        )
    columns = statement.selected_columns
    if isinstance(statement, TextualSelect) and not statement.positional and len(columns) > 1:
        raise TypeError(
            "By names alone the order of the columns is not known: write them in the text's order,"
            ' `text(…).columns(User.id, column("total", Integer))`'
        )
    if isinstance(statement, Select):
        refuse_objects(statement)
        # Of those by attribute, the attribute's name.
        found = [described["name"] for described in statement.column_descriptions]
    else:
        found = columns.keys()
    if not (is_dataclass(model) or is_typeddict(model) or hasattr(model, "model_fields")):
        if len(columns) != 1:
            raise TypeError(f"{len(columns)} columns do not make one {model}: give it a model")
        return None
    names: list[str] = []
    for name, column in zip(found, columns, strict=True):
        if column.key is None or column.key.startswith("%("):
            raise TypeError(f'A column has no name, write `.label("name")` after it: {column}')
        # SQLAlchemy calls the second one `id_1`.
        if name != column.key and column.key in names:
            raise TypeError(f'Two columns are called {column.key}: write `.label("name")`')
        names.append(name)
    refuse_other_fields(model, names)
    return names


def refuse_objects(select: Select[*tuple[Any, ...]]) -> None:
    """Raise TypeError where something else than columns is selected."""
    for described in select.column_descriptions:
        if isinstance(described["expr"], type) or not hasattr(described["expr"], "type"):
            raise TypeError(
                f"{described['name']} is a whole object, which needs a session: select columns, as"
                " in `select(User.id, User.email)`"
            )


def fields_of(model: Any) -> tuple[Mapping[str, FieldInfo], Mapping[str, Any]]:
    """Return the fields of a model, a dataclass or a TypedDict, and its configuration."""
    if is_typeddict(model):
        hints = get_type_hints(model, include_extras=True)
        fields = {name: FieldInfo.from_annotation(hint) for name, hint in hints.items()}
        for name in model.__optional_keys__:
            fields[name].default = None
    elif hasattr(model, "model_fields"):
        return model.model_fields, model.model_config
    else:
        # One of the standard library becomes one of Pydantic's, as it does when rows are read.
        fields = dataclass(model).__pydantic_fields__
    return fields, getattr(model, "__pydantic_config__", {})


def refuse_other_fields(model: Any, names: Sequence[str]) -> None:
    """Raise TypeError for a column that the model would drop, and a field without its column."""
    fields, config = fields_of(model)
    known: set[Any] = set()
    for name, field in fields.items():
        alias = field.validation_alias or name
        # None for what only Pydantic can tell.
        aliases = {alias if isinstance(alias, str) else None}
        if config.get("populate_by_name") or config.get("validate_by_name"):
            aliases.add(name)
        if field.is_required() and not (aliases & set(names) or None in aliases):
            raise TypeError(f"{model.__name__} needs {alias}, which is not among {one_of(names)}")
        known |= aliases
    lost = set(names) - known
    if lost and None not in known and config.get("extra") != "allow":
        raise TypeError(f"{model.__name__} has no {one_of(lost)}, only {one_of(known)}")


def refuse_options(statement: Any) -> None:
    """Raise TypeError for options of the execution, which only a session or engine knows."""
    if options := dict(getattr(statement, "get_execution_options", dict)()):
        raise TypeError(f"A statement with options needs a session: {options}")


def mapper_of(model: Any) -> Mapper[Any]:
    """Return a model's mapper. Raises TypeError if a session does more than to write columns."""
    mapper = class_mapper(model, configure=False)
    if mapper.tables != [mapper.local_table] or mapper.polymorphic_on is not None:
        reason = "has tables of others, or shares its own"
    elif mapper.version_id_col is not None:
        reason = "counts its versions"
    elif mapper.validators:
        reason = f"validates {one_of(mapper.validators)}"
    elif mapper.class_manager.original_init is not mapper.registry.constructor:
        reason = "has an __init__ of its own"
    elif model.__setattr__ is not object.__setattr__:
        reason = "has a __setattr__ of its own"
    else:
        return mapper
    raise TypeError(f"{model.__name__} {reason}: use a session")


def refuse_foreign_columns(read: Any, mapper: Mapper[Any]) -> None:
    """Raise TypeError when what is read of a new row is not of this row alone."""
    tables = {
        element.table
        for element in visitors.iterate(read)
        if isinstance(element, Column) and element.table is not None
    }
    if tables - {mapper.local_table} or getattr(read, "whereclause", None) is not None:
        raise TypeError(
            f"What is read of a new {mapper.class_.__name__} is its own columns, without `.where()`"
        )


def refuse_names(given: Mapping[str, Any], required: set[str], allowed: Any) -> None:
    """Raise TypeError for names that are not known, and those that are missing."""
    if unknown := given.keys() - allowed:
        raise TypeError(f"No such name: {one_of(unknown)}; there is {one_of(allowed) or 'none'}")
    if missing := required - given.keys():
        raise TypeError(f"Missing: {one_of(missing)}")


def one_of(names: Any) -> str:
    """List names in a message."""
    return ", ".join(sorted(map(str, names)))


def warn_if_made_too_often() -> None:
    """Log a warning about a line that makes statements again and again: each is compiled anew."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__package__"] == __package__:
        frame = frame.f_back
    line = frame.f_code.co_filename, frame.f_lineno
    made_by[line] += 1
    if made_by[line] == TOO_MANY:
        logger.warning(
            "%s:%d has made %d statements: each is compiled anew, which takes longer than to run"
            " it. Make it once, at the top of a module, with `bindparam(…)` for what changes.",
            *line,
            TOO_MANY,
        )
