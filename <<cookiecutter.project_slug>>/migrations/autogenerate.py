"""What `make revision` writes of the differences that it finds, and in which order."""

import logging
from collections.abc import Iterable, Iterator
from typing import Literal

from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
<% if cookiecutter.database == "postgresql" %>
from alembic.ddl.base import IdentityColumnDefault
<% endif %>
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation, MigrationScript
from alembic.runtime.migration import MigrationContext
<% if cookiecutter.database == "postgresql" %>
from alembic.util import CommandError
<% endif %>
<% if cookiecutter.vector_search == "yes" %>
from pgvector.sqlalchemy import VECTOR
<% endif %>
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Interval,
    MetaData,
    TextClause,
    TypeDecorator,
    inspect,
    text,
)
<% else %>
from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    MetaData,
    TextClause,
    TypeDecorator,
    text,
)
<% endif %>
from sqlalchemy.schema import sort_tables_and_constraints
from sqlalchemy.types import UserDefinedType

<% if cookiecutter.database == "postgresql" %>
from migrations.comparison import AsReported
from migrations.enums import compare_enums, enum_of, render_enum
from migrations.sql import QUOTE, Sql, retyped
<% else %>
from migrations.steps import one_change_each
<% endif %>
<% if cookiecutter.database == "postgresql" %>
from migrations.wording import as_text
<% else %>
from migrations.wording import as_text, refuse_what_is_lost
<% endif %>
<% if cookiecutter.database == "postgresql" %>

# Bytes: PostgreSQL's NAMEDATALEN - 1.
LONGEST_NAME = 63
<% endif %>

log = logging.getLogger("alembic.revision")


def render_item(kind: str, item: object, autogen: AutogenContext) -> str | Literal[False]:
    """Write a type of our own as the column type that it is: models change, migrations do not."""
    if kind != "type":
        return False
    if isinstance(item, TypeDecorator) and not type(item).__module__.startswith("sqlalchemy."):
        assert autogen.dialect is not None
        return _repr_type(item.load_dialect_impl(autogen.dialect), autogen)
<% if cookiecutter.vector_search == "yes" %>
    if isinstance(item, VECTOR):
        autogen.imports.add("from pgvector.sqlalchemy import VECTOR")
        return f"VECTOR({item.dim})"
<% endif %>
    if isinstance(item, UserDefinedType) and not type(item).__module__.startswith("sqlalchemy."):
        # It is no other type: Alembic writes it by its module.
        autogen.imports.add(f"import {type(item).__module__}")
<% if cookiecutter.database == "postgresql" %>
    # Alembic forgets its precision.
    if isinstance(item, Interval) and item.second_precision is not None:
        return f"sa.Interval(second_precision={item.second_precision})"
    return render_enum(item, autogen)
<% else %>
    return False
<% endif %>


def flat(operations: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
    """Yield operations without the groups that they are in."""
    for operation in operations:
        if isinstance(operation, ops.OpContainer):
            yield from flat(operation.ops)
        else:
            yield operation


def break_circles(metadata: MetaData) -> None:
    """Have foreign keys of tables that refer to each other made when all of the tables are."""
    tables = metadata.tables.values()
    _, later = sort_tables_and_constraints(tables)[-1]  # type: ignore[no-untyped-call]
    for constraint in later:
        constraint.use_alter = True


def split_tables(operations: list[MigrateOperation], metadata: MetaData) -> None:
    """Make what Alembic leaves out of a table, and drop what tables in a circle refer to."""
    gone: set[str] = set()
    for operation in list(operations):
        if isinstance(operation, ops.CreateTableOp):
            table = metadata.tables[operation.to_table().key]
            operations += [
                ops.CreateForeignKeyOp.from_constraint(constraint)
                for constraint in table.foreign_key_constraints
                if constraint.use_alter
            ]
            operations += [
                ops.CreateCheckConstraintOp.from_constraint(constraint)
                for column in table.columns
                for constraint in column.constraints
                if isinstance(constraint, CheckConstraint)
            ]
        if isinstance(operation, ops.DropTableOp) and operation._reverse is not None:
            for constraint in operation._reverse.columns:
                if isinstance(constraint, ForeignKeyConstraint):
                    # By its name: a table that stays is not among those that go.
                    referred, _, _ = constraint.elements[0].target_fullname.rpartition(".")
                    if referred in gone:
                        constraint.use_alter = True
                        operations.append(ops.DropConstraintOp.from_constraint(constraint))
            gone.add(".".join(filter(None, (operation.schema, operation.table_name))))


def keep_colons(operations: list[MigrateOperation]) -> None:
    """Have checks, and those of tables, that go come back as they were."""
    for operation in operations:
        match operation:
            case ops.DropTableOp(_reverse=ops.CreateTableOp(columns=items)):
                for item in items:
                    if isinstance(item, CheckConstraint) and isinstance(item.sqltext, TextClause):
                        item.sqltext = text(as_text(item.sqltext.text))
            case ops.DropConstraintOp(
                _reverse=ops.CreateCheckConstraintOp(condition=TextClause(text=sql)) as check
            ):
                check.condition = text(as_text(sql))


def warn_of_losses(operations: list[MigrateOperation]) -> None:
    """Log what is lost unless somebody writes it otherwise."""
    gone = [each for each in operations if isinstance(each, ops.DropColumnOp)]
    for operation in operations:
        if not isinstance(operation, ops.AddColumnOp):
            continue
        table, column = operation.table_name, operation.column
        if others := sorted(each.column_name for each in gone if each.table_name == table):
            log.warning(
                "%s.%s goes, with its values, and %s comes. If it is only renamed, write in place of"
                " both: op.alter_column(%r, %r, new_column_name=%r)",
                *(table, " or ".join(others), column.name, table, others[0], column.name),
            )
<% if cookiecutter.database == "mysql" %>
        if not (column.nullable or column.server_default or column.computed):
            log.warning(
                "%s.%s: MySQL gives the rows that are there 0, '' or the like: a server_default says"
                " what they should have",
                *(table, column.name),
            )
<% endif %>


def rank(operation: MigrateOperation) -> int:
    """Return where an operation belongs: what refers to others goes first, and comes last."""
<% if cookiecutter.database == "postgresql" %>
    if isinstance(operation, Sql) and operation.place != "among":
        return 0 if operation.place == "first" else 4
<% endif %>
    if isinstance(operation, ops.DropConstraintOp):
        return 1 if operation.constraint_type in {"foreignkey", "check"} else 2
    if isinstance(operation, ops.CreateForeignKeyOp | ops.CreateCheckConstraintOp):
        return 3
    return 2


<% if cookiecutter.database == "postgresql" %>
def schemas_of(metadata: MetaData) -> set[str | None]:
    """Return the schemas that are ours: others of the database are left alone."""
    return {None, *(table.schema for table in metadata.sorted_tables)}


def check_lengths(metadata: MetaData) -> None:
    """Raise CommandError for a name that the server would cut.

    The next comparison would drop what it does not know by its whole name.
    """
    for table in metadata.sorted_tables:
        types = [enum.name for column in table.columns if (enum := enum_of(column.type))]
        for name in (table.schema, table.name, *(column.name for column in table.columns), *types):
            if name is not None and len(name.encode()) > LONGEST_NAME:
                raise CommandError(
                    f"{name}: PostgreSQL cuts names after {LONGEST_NAME} bytes; choose a shorter one"
                )


def check_schemas(metadata: MetaData, default: str | None) -> None:
    """Raise CommandError for a foreign key that names the schema where tables are anyway.

    The server shows it without, so that each revision would make it again.
    """
    for table in metadata.sorted_tables:
        if any(default in (table.schema, key.column.table.schema) for key in table.foreign_keys):
            raise CommandError(
                f'{table.name}: leave out the schema "{default}", here and in foreign keys: they are'
                " there without it, and each revision would make them again"
            )


def compare_the_rest(context: MigrationContext, metadata: MetaData) -> Iterator[Sql]:
    """Yield what Alembic does not compare: schemas, and the types of Enum columns."""
    check_lengths(metadata)
    connection = context.connection
    assert connection is not None
    inspector = inspect(connection)
    check_schemas(metadata, inspector.default_schema_name)
    schemas = schemas_of(metadata)
    existing = {None, *inspector.get_schema_names()}
    for schema in sorted(filter(None, schemas - existing)):
        name = QUOTE.quote(schema)
        yield Sql([f"CREATE SCHEMA {name}"], [f"DROP SCHEMA {name}"], place="first")
    yield from compare_enums(connection, metadata, schemas & existing)


def complete(
    context: MigrationContext, operation: MigrateOperation, metadata: MetaData
) -> Iterable[MigrateOperation]:
    """Return the operation, in full where Alembic's would not work: new types, new identities."""
    if not isinstance(operation, ops.AlterColumnOp) or operation.existing_type is None:
        return [operation]
    old, new = operation.existing_server_default, operation.modify_server_default
    if isinstance(old, Identity) and isinstance(new, Identity):
        up, down = (
            str(
                IdentityColumnDefault(
                    operation.table_name,
                    operation.column_name,
                    target,
                    context.impl,
                    existing_server_default=origin,
                    schema=operation.schema,
                ).compile(dialect=context.dialect)
            )
            for origin, target in ((old, new), (new, old))
        )
        return [Sql([up], [down], place="among")]
    if operation.modify_type is None:
        return [operation]
    key = ".".join(filter(None, [operation.schema, operation.table_name]))
    column = metadata.tables[key].columns[operation.column_name]
    by_text = bool(enum_of(operation.modify_type) or enum_of(operation.existing_type))
    assert isinstance(context.impl, AsReported)
    if by_text or not context.impl.is_cast(operation, column):
        return retyped(operation, column, by_text=by_text)
    return [operation]


<% endif %>
def arrange(context: MigrationContext, _: object, scripts: list[MigrationScript]) -> None:
    """Bring what was found into an order in which it can be done, and undone."""
    [script] = scripts
    assert script.upgrade_ops is not None
    metadata: MetaData = context.opts["target_metadata"]
<% if cookiecutter.database == "mysql" %>
    refuse_what_is_lost(context.impl, metadata)
<% endif %>
    operations = list(flat(script.upgrade_ops.ops))
    warn_of_losses(operations)
    keep_colons(operations)
    split_tables(operations, metadata)
<% if cookiecutter.database == "postgresql" %>
    operations = [done for found in operations for done in complete(context, found, metadata)]
    operations += compare_the_rest(context, metadata)
    operations.sort(key=rank)
    script.upgrade_ops.ops = operations
    script.downgrade_ops = script.upgrade_ops.reverse()
<% else %>
    operations.sort(key=rank)
    script.upgrade_ops.ops = operations
    # Without a message nothing is written: the models are only compared.
    if script.message is not None:
        scripts[:] = one_change_each(context, script)
<% endif %>
