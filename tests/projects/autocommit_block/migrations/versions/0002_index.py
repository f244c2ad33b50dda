"""Index apples outside the transaction; FAIL=1 fails after it"""

import os

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("apples", sa.Column("name", sa.String(50)))
    with op.get_context().autocommit_block():
        op.create_index("ix_apples_name", "apples", ["name"], postgresql_concurrently=True)
    op.create_table("pears", sa.Column("id", sa.Integer, primary_key=True))
    if os.environ.get("FAIL"):
        op.execute("ALTER TABLE no_such_table ADD COLUMN a INTEGER")


def downgrade():
    op.drop_table("pears")
    op.drop_index("ix_apples_name", table_name="apples")
    with op.batch_alter_table("apples") as apples:
        apples.drop_column("name")
