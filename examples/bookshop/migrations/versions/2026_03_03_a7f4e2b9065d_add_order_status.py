"""Add order status (shipping's line)

Revision ID: a7f4e2b9065d
Revises: 68b1e7d3f02a
Create Date: 2026-03-03 13:48:26

"""

import sqlalchemy as sa
from alembic import op

revision = "a7f4e2b9065d"
down_revision = "68b1e7d3f02a"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("orders") as orders:
        orders.add_column(sa.Column("status", sa.String(20), server_default="placed", nullable=False))


def downgrade():
    with op.batch_alter_table("orders") as orders:
        orders.drop_column("status")
