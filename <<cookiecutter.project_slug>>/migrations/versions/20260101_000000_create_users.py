"""create users

Revision: 4d1f0a7c9b2e
After:
Created: 2026-01-01 00:00:00+00:00
"""

import sqlalchemy as sa
from alembic import op
<% if cookiecutter.database == "mysql" %>
from sqlalchemy.dialects import mysql
<% endif %>

revision = "4d1f0a7c9b2e"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
<% if cookiecutter.database == "postgresql" %>
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
<% else %>
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
<% endif %>
<% if cookiecutter.database == "postgresql" %>
        sa.Column("email", sa.String(length=320), nullable=False),
<% else %>
        sa.Column("email", sa.String(length=320, collation="utf8mb4_bin"), nullable=False),
<% endif %>
        sa.Column("full_name", sa.String(length=200), nullable=True),
        sa.Column(
            "created_at",
<% if cookiecutter.database == "postgresql" %>
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
<% else %>
            mysql.DATETIME(fsp=6),
            server_default=sa.text("(utc_timestamp(6))"),
<% endif %>
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
<% if cookiecutter.database == "mysql" %>
        mysql_charset="utf8mb4",
<% endif %>
    )


def downgrade() -> None:
    op.drop_table("users")
