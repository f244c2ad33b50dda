"""Create emails"""

import sqlalchemy as sa
from alembic import op

revision = "a002"
down_revision = "a001"


def upgrade():
    op.create_table("emails", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("emails")
