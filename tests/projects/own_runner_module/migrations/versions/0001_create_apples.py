"""Create apples"""

import sqlalchemy as sa
from alembic import op
from runner.settings import TABLE

revision = "0001"
down_revision = None


def upgrade():
    op.create_table(TABLE, sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table(TABLE)
