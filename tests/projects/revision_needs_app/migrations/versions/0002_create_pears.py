"""Create pears"""

import sqlalchemy as sa
from alembic import op

from app.models import apples

revision = "0002"
down_revision = "0001"


def upgrade():
    op.create_table("pears", sa.Column("id", sa.Integer, sa.ForeignKey(apples.c.id), primary_key=True))


def downgrade():
    op.drop_table("pears")
