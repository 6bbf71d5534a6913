"""Checks that the models say, and that the database has."""

from collections.abc import Iterator

from alembic.operations import ops
from alembic.operations.ops import MigrateOperation
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, MetaData, TextClause, inspect, text
from sqlalchemy.sql.elements import conv

from migrations.comparison import AsReported
from migrations.wording import as_text, declared_checks


def compare_checks(
    context: MigrationContext, metadata: MetaData, operations: list[MigrateOperation]
) -> Iterator[MigrateOperation]:
    """Yield what makes the checks of tables those of the models, which Alembic does not compare."""
    assert context.connection is not None
    assert isinstance(context.impl, AsReported)
    inspector = inspect(context.connection)
    new = {op.to_table().key for op in operations if isinstance(op, ops.CreateTableOp)}
    for table in metadata.sorted_tables:
        if table.key in new:
            continue
        declared = declared_checks(context.impl, table)
        existing = {
            str(check["name"]): as_text(check["sqltext"])
            for check in inspector.get_check_constraints(table.name, schema=table.schema)
        }
        same = context.impl.same_checks(table, existing, declared)
        for name in sorted(existing.keys() - same):
            yield ops.CreateCheckConstraintOp(
                conv(name), table.name, existing[name], schema=table.schema
            ).reverse()
        for name in sorted(declared.keys() - same):
            yield ops.CreateCheckConstraintOp(
                conv(name), table.name, declared[name], schema=table.schema
            )


def keep_colons(operations: list[MigrateOperation]) -> None:
    """Have the checks of tables that go come back as they were."""
    for operation in operations:
        if isinstance(operation, ops.DropTableOp) and operation._reverse is not None:
            for item in operation._reverse.columns:
                if isinstance(item, CheckConstraint) and isinstance(item.sqltext, TextClause):
                    item.sqltext = text(as_text(item.sqltext.text))
