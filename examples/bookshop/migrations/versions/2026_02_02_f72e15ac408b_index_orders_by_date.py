"""Index orders by date

Revision ID: f72e15ac408b
Revises: 0b9a6c27e3d5
Create Date: 2026-02-02 08:55:10

"""

from alembic import op

revision = "f72e15ac408b"
down_revision = "0b9a6c27e3d5"
branch_labels = None
depends_on = None


def upgrade():
    op.create_index(op.f("ix_orders_placed_at"), "orders", ["placed_at"])


def downgrade():
    op.drop_index(op.f("ix_orders_placed_at"), table_name="orders")
