"""Create plums, fill them, fail; FAIL=syntax with a statement that the server cannot parse"""

import os

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade():
    op.create_table("plums", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO plums (id) VALUES (1)")
    if os.environ.get("FAIL") == "syntax":
        op.execute("ALTER TABLE plums AD COLUMN a INTEGER")  # MariaDB has not committed the row
    op.execute("ALTER TABLE no_such_table ADD COLUMN a INTEGER")  # MariaDB commits the row before it looks
    op.create_table("never_reached", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    pass
