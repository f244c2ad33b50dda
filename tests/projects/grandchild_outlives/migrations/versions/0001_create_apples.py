"""Create apples, and leave a process behind that holds stdout and stderr for SECONDS (10)"""

import os
import subprocess
import sys

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("apples", sa.Column("id", sa.Integer, primary_key=True))
    seconds = os.environ.get("SECONDS", "10")
    late = f"import time; print('early', flush=True); time.sleep({seconds}); print('late', flush=True)"
    subprocess.Popen([sys.executable, "-c", late], start_new_session=True)


def downgrade():
    op.drop_table("apples")
