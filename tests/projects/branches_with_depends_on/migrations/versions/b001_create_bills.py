"""Create bills"""

import sqlalchemy as sa
from alembic import op

revision = "b001"
down_revision = None
branch_labels = ("billing",)
depends_on = "a001"


def upgrade():
    op.create_table("bills", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("bills")
