"""Create plums; FAIL=1 fails after it"""

import os

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade():
    op.create_table("plums", sa.Column("id", sa.Integer, primary_key=True))
    if os.environ.get("FAIL"):
        op.execute("ALTER TABLE no_such_table ADD COLUMN a INTEGER")


def downgrade():
    op.drop_table("plums")
