"""Merge the catalogue's line and shipping's

Revision ID: 84ba5df1c76e
Revises: d50c3a8e971f, 1e93c0d6b82f
Create Date: 2026-03-16 15:30:44

"""

revision = "84ba5df1c76e"
down_revision = ("d50c3a8e971f", "1e93c0d6b82f")
branch_labels = None
depends_on = None


def upgrade():
    pass


def downgrade():
    pass
