"""Require a unique slug for every book

Revision ID: 68b1e7d3f02a
Revises: 2ac6f9510d7e
Create Date: 2026-02-23 16:02:55

"""

import sqlalchemy as sa
from alembic import op

revision = "68b1e7d3f02a"
down_revision = "2ac6f9510d7e"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("books") as books:
        books.alter_column("slug", existing_type=sa.String(320), nullable=False)
        books.create_unique_constraint(op.f("uq_books_slug"), ["slug"])


def downgrade():
    with op.batch_alter_table("books") as books:
        books.drop_constraint(op.f("uq_books_slug"), type_="unique")
        books.alter_column("slug", existing_type=sa.String(320), nullable=True)
