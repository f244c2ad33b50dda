"""Create apples, then take SECONDS, in SQL where the database can, or else (SLEEP=python) in Python"""

import os
import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("apples", sa.Column("id", sa.Integer, primary_key=True))
    seconds = float(os.environ["SECONDS"])
    sleep = {"mysql": "SELECT SLEEP(:s)", "mariadb": "SELECT SLEEP(:s)", "postgresql": "SELECT pg_sleep(:s)"}
    dialect = op.get_bind().dialect.name
    print("sleeping", flush=True)
    if dialect in sleep and os.environ.get("SLEEP") != "python":
        op.get_bind().execute(sa.text(sleep[dialect]), {"s": seconds})
    else:
        time.sleep(seconds)
    op.execute("INSERT INTO apples (id) VALUES (1)")


def downgrade():
    op.drop_table("apples")
