"""Add book slug, still empty

Revision ID: 93d0b84e6a1c
Revises: f72e15ac408b
Create Date: 2026-02-16 11:20:00

"""

import sqlalchemy as sa
from alembic import op

revision = "93d0b84e6a1c"
down_revision = "f72e15ac408b"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("books") as books:
        books.add_column(sa.Column("slug", sa.String(320), nullable=True))


def downgrade():
    with op.batch_alter_table("books") as books:
        books.drop_column("slug")
