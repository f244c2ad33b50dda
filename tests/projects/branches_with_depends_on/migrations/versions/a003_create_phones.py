"""Create phones"""

import sqlalchemy as sa
from alembic import op

revision = "a003"
down_revision = "a001"


def upgrade():
    op.create_table("phones", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("phones")
