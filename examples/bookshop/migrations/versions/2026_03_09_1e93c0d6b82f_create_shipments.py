"""Create shipments (shipping's line)

Revision ID: 1e93c0d6b82f
Revises: a7f4e2b9065d
Create Date: 2026-03-09 09:04:12

"""

import sqlalchemy as sa
from alembic import op

revision = "1e93c0d6b82f"
down_revision = "a7f4e2b9065d"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "shipments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("order_id", sa.Integer(), nullable=False),
        sa.Column("carrier", sa.String(50), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shipments")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_shipments_order_id_orders")),
    )
    op.create_index(op.f("ix_shipments_order_id"), "shipments", ["order_id"])


def downgrade():
    op.drop_table("shipments")
