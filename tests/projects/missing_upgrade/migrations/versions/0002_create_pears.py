"""Create pears"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgarde():
    op.create_table("pears", sa.Column("id", sa.Integer, primary_key=True))
