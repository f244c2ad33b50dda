"""Create apples, with bound values; FAIL=1 inserts one twice"""

import os

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    print("migrating", op.get_bind().engine.url.password, op.get_context().config.get_main_option("sqlalchemy.url"))
    apples = op.create_table(
        "apples", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(50), unique=True)
    )
    op.bulk_insert(apples, [{"id": 1, "name": "bound-4711"}])
    op.execute("INSERT INTO apples (id, name) VALUES (2, 'literal-4712')")
    if os.environ.get("FAIL"):
        op.get_bind().execute(apples.insert(), {"id": 3, "name": "bound-4711"})


def downgrade():
    op.drop_table("apples")
