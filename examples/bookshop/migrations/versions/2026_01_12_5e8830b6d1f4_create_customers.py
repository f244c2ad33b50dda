"""Create customers

Revision ID: 5e8830b6d1f4
Revises: c41d7f0a92be
Create Date: 2026-01-12 10:40:02

"""

import sqlalchemy as sa
from alembic import op

revision = "5e8830b6d1f4"
down_revision = "c41d7f0a92be"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "customers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customers")),
        sa.UniqueConstraint("email", name=op.f("uq_customers_email")),
    )


def downgrade():
    op.drop_table("customers")
