"""Fail"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.execute("ALTER TABLE no_such_table ADD COLUMN a INTEGER")


def downgrade():
    pass
