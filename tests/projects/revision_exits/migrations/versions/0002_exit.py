"""Create pears, then leave as EXIT says: `sys.exit:0`, `sys.exit:3`, `os._exit:0`, `os._exit:3`"""

import os
import sys

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.create_table("pears", sa.Column("id", sa.Integer, primary_key=True))
    print("the last words", end="", flush=True)
    how, code = os.environ["EXIT"].split(":")
    {"sys.exit": sys.exit, "os._exit": os._exit}[how](int(code))


def downgrade():
    pass
