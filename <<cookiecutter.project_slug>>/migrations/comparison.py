"""How columns and checks are compared: by the server's own words."""

from collections.abc import Iterable, Mapping
from typing import Any

from alembic.ddl.impl import ComparisonResult
<% if cookiecutter.database == "postgresql" %>
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations.ops import AlterColumnOp
<% else %>
from alembic.ddl.mysql import MySQLImpl
<% endif %>
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    DefaultClause,
    Inspector,
    MetaData,
    Table,
    TextClause,
    inspect,
    text,
)
<% else %>
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Computed,
    Connection,
    Index,
    Inspector,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.dialects.mysql.base import MySQLDialect
<% endif %>
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.elements import ClauseElement
<% if cookiecutter.database == "mysql" %>
from sqlalchemy.types import TypeEngine

from migrations.wording import as_kept, as_text, read_columns
<% else %>

from migrations.wording import as_text, read_columns
<% endif %>

# Alembic compares checks only when told to.
PLUGINS = ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"]


<% if cookiecutter.database == "postgresql" %>
class AsReported(PostgresqlImpl):
<% else %>
class AsReported(MySQLImpl):
<% endif %>
    """Compares columns by the server's own words, of types and defaults, which only it knows.

    A temporary table is made of what the models say, and looked at. Alembic takes this class by
    the name of the dialect.
    """

<% if cookiecutter.database == "postgresql" %>
    __dialect__ = "postgresql"
<% else %>
    __dialect__ = "mysql"
<% endif %>

    def __init__(self, dialect: Any, connection: Connection | None, *options: Any) -> None:
        super().__init__(dialect, connection, *options)
        if connection is not None:
            read_columns(dialect)

    def report(
<% if cookiecutter.database == "postgresql" %>
        self, columns: Iterable[Column[Any]], checks: Mapping[str, str] | None = None
<% else %>
        self,
        columns: Iterable[Column[Any]],
        checks: Mapping[str, str] | None = None,
        *,
        like: Table,
<% endif %>
    ) -> tuple[list[ReflectedColumn], dict[str, str]]:
        """Return what the server makes of columns and checks: nothing where it refuses them."""
        assert self.connection is not None
<% if cookiecutter.database == "postgresql" %>
        probe = Table("alembic_probe", MetaData(), prefixes=["TEMPORARY"])
<% else %>
        # What is not said of a column is the table's, not the server's.
        options = {
            name: value
            for name, value in like.kwargs.items()
            if name.endswith(("charset", "collate"))
        }
        # Some servers take no table without a primary key.
        key = Column("alembic_probe", Integer, primary_key=True, autoincrement=False)
        probe = Table("alembic_probe", MetaData(), key, prefixes=["TEMPORARY"], **options)
<% endif %>
        for declared in columns:
<% if cookiecutter.database == "postgresql" %>
            column = Column(declared.name, declared.type, nullable=declared.nullable)
            column.server_default = declared.server_default
<% else %>
            made = [Computed(declared.computed.sqltext)] if declared.computed else []
            column = Column(declared.name, declared.type, *made, nullable=declared.nullable)
            column.server_default = column.server_default or declared.server_default
<% endif %>
            probe.append_column(column)
        for name, condition in (checks or {}).items():
            probe.append_constraint(CheckConstraint(condition, name=name))
        try:
            with self.connection.begin_nested():
                self.connection.execute(CreateTable(probe))
                inspector = inspect(self.connection)
<% if cookiecutter.database == "postgresql" %>
                reported = inspector.get_columns(probe.name)
<% else %>
                [_, *reported] = inspector.get_columns(probe.name)
<% endif %>
                texts = {
                    str(check["name"]): as_text(check["sqltext"])
                    for check in inspector.get_check_constraints(probe.name)
                }
<% if cookiecutter.database == "postgresql" %>
                self.connection.execute(text("DROP TABLE alembic_probe"))
<% else %>
                # Without TEMPORARY it would end the transaction.
                self.connection.execute(text("DROP TEMPORARY TABLE alembic_probe"))
<% endif %>
        except DBAPIError:
            return [], {}
        return reported, texts

    def compare_check_constraint(
        self, metadata_constraint: CheckConstraint, reflected_constraint: CheckConstraint
    ) -> ComparisonResult:
        """Compare a check of the models with that of the same name.

        Read back and made again, a check may be put differently once more, and then no more.
        """
        parent, existing = metadata_constraint.parent, reflected_constraint.sqltext
        table = parent if isinstance(parent, Table) else parent.table
        assert isinstance(existing, TextClause)
        checks = {
            "new": self.render_ddl_sql_expr(metadata_constraint.sqltext),
            "old": as_text(existing.text),
        }
        for _ in range(2):
<% if cookiecutter.database == "postgresql" %>
            _, found = self.report(table.columns, checks)
<% else %>
            _, found = self.report(table.columns, checks, like=table)
<% endif %>
            if not found:
                return ComparisonResult.Different("the server refuses one of them")
            checks = {name: found[name] for name in checks}
        if checks["new"] == checks["old"]:
            return ComparisonResult.Equal()
        return ComparisonResult.Different(f"{checks['old']} to {checks['new']}")

    def compare_type(self, inspector_column: Column[Any], metadata_column: Column[Any]) -> bool:
        """Return whether a column has another type than the models say."""
<% if cookiecutter.database == "postgresql" %>
        if not super().compare_type(inspector_column, metadata_column):
            return False
        reported, _ = self.report([metadata_column])
        return not reported or super().compare_type(
            inspector_column, Column("probe", reported[0]["type"])
        )
<% else %>
        self.table = metadata_column.table
        # Alembic would pass by UNSIGNED, fractions of a second and collations. Of the last those are
        # told that are not the table's own.
        column = Column(metadata_column.name, metadata_column.type)
        reported, _ = self.report([column], like=inspector_column.table)
        return not reported or repr(reported[0]["type"]) != repr(inspector_column.type)
<% endif %>

<% if cookiecutter.database == "postgresql" %>
    def is_cast(self, operation: AlterColumnOp, column: Column[Any]) -> bool:
        """Return whether the server changes a column's type, and back, without being told how."""
        assert self.connection is not None
        there = column.type, column.server_default
        here = operation.existing_type, operation.existing_server_default
        for (old, default), (new, _) in ((here, there), (there, here)):
            assert old is not None
            assert new is not None
            probe = Table("alembic_probe", MetaData(), Column("c", old), prefixes=["TEMPORARY"])
            probe.c.c.server_default = default if isinstance(default, DefaultClause) else None
            type_ = new.compile(dialect=self.dialect)
            try:
                with self.connection.begin_nested() as savepoint:
                    self.connection.execute(CreateTable(probe))
                    self.connection.execute(text(f"ALTER TABLE alembic_probe ALTER c TYPE {type_}"))
                    savepoint.rollback()
            except DBAPIError:
                return False
        return True

<% endif %>
    def compare_server_default(
        self,
        inspector_column: Column[Any],
        metadata_column: Column[Any],
        rendered_metadata_default: str | None,
        rendered_inspector_default: str | None,
    ) -> bool:
        """Return whether a column has another default than the models say."""
        if rendered_metadata_default is None:
            return rendered_inspector_default is not None
<% if cookiecutter.database == "postgresql" %>
        reported, _ = self.report([metadata_column])
<% else %>
        reported, _ = self.report([metadata_column], like=inspector_column.table)
<% endif %>
        if not reported:
            return True
        default = as_text(reported[0]["default"] or "")
<% if cookiecutter.database == "postgresql" %>
        return default != (rendered_inspector_default or "")
<% else %>
        found, type_ = rendered_inspector_default or "", inspector_column.type
        return as_kept(default, type_) != as_kept(found, type_)
<% endif %>

    def autogen_column_reflect(
        self, inspector: Inspector, table: Table, column_info: dict[str, Any]
    ) -> None:
        """Take what was read of a column as the text that it is."""
        super().autogen_column_reflect(  # type: ignore[no-untyped-call]
            inspector, table, column_info
        )
        if column_info.get("default"):
            column_info["default"] = as_text(column_info["default"])
        if computed := column_info.get("computed"):
            computed["sqltext"] = as_text(computed["sqltext"])

    def render_ddl_sql_expr(
        self,
        expr: ClauseElement,
        is_server_default: bool = False,
        is_index: bool = False,
        **kw: Any,
    ) -> str:
<% if cookiecutter.database == "postgresql" %>
        """Return SQL as a revision has it."""
        sql = super().render_ddl_sql_expr(expr, is_server_default, is_index, **kw)
<% else %>
        """Return SQL as a revision has it, where a percent sign is one, and not two for the driver."""
        sql = super().render_ddl_sql_expr(expr, is_server_default, is_index, **kw)
        sql = sql.replace("%%", "%")
<% endif %>
        # Only of an index Alembic writes no `text()`.
        return sql if is_index else as_text(sql)
<% if cookiecutter.database == "mysql" %>

    def correct_for_autogen_constraints(
        self,
        conn_unique_constraints: set[UniqueConstraint],
        conn_indexes: set[Index],
        metadata_unique_constraints: set[UniqueConstraint],
        metadata_indexes: set[Index],
    ) -> None:
        """Read indexes on expressions and descending ones, which SQLAlchemy knows by half.

        They are compared by their names.
        """
        super().correct_for_autogen_constraints(  # type: ignore[no-untyped-call]
            conn_unique_constraints, conn_indexes, metadata_unique_constraints, metadata_indexes
        )
        compared = {index.name: index for index in metadata_indexes}
        for index in list(conn_indexes):
            if index.table is None or not (parts := self.odd_parts(index)):
                continue
            conn_indexes.remove(index)
            if index.name in compared:
                metadata_indexes.remove(compared[index.name])
            else:
                expressions = [text(part) for part in parts]
                conn_indexes.add(
                    Index(index.name, *expressions, unique=index.unique, _table=index.table)
                )

    def odd_parts(self, index: Index) -> list[str]:
        """Return what an index is on, as SQL, where that is not just columns."""
        assert self.connection is not None
        assert index.table is not None
        # MariaDB has no indexes on expressions.
        assert isinstance(self.dialect, MySQLDialect)
        expression = "NULL" if self.dialect.is_mariadb else "expression"
        rows = self.connection.execute(
            text(
                f"SELECT {expression}, column_name, collation FROM information_schema.statistics"
                " WHERE table_schema = database() AND table_name = :table AND index_name = :name"
                " ORDER BY seq_in_index"
            ),
            {"table": index.table.name, "name": index.name},
        )
        parts = [
            (f"({expression})" if expression else f"`{column}`") + " DESC" * (order == "D")
            for expression, column, order in rows
        ]
        is_odd = any(part.endswith((")", " DESC")) for part in parts)
        return [part.replace("\\'", "'") for part in parts] if is_odd else []

    def _normalize_computed_default(self, sqltext: str) -> str:
        """Return a generated column's expression as the server puts it, read back and made again."""
        others = [Column(column.name, column.type) for column in self.table.columns]
        for _ in range(2):
            expression = text(as_text(sqltext.replace("%%", "%")))
            made = Column("made", Text, Computed(expression))
            reported, _ = self.report([*others, made], like=self.table)
            if not reported:
                break
            sqltext = reported[-1]["computed"]["sqltext"]
        return sqltext

    def _is_mysql_allowed_functional_default(
        self, type_: TypeEngine[Any] | None, server_default: Any
    ) -> bool:
        """Return whether the whole column is written to change a default: texts need that."""
        return super()._is_mysql_allowed_functional_default(type_, server_default) or (
            server_default is not None and isinstance(type_, JSON | LargeBinary | Text)
        )
<% endif %>
