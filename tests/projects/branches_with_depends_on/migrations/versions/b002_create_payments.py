"""Create payments"""

import sqlalchemy as sa
from alembic import op

revision = "b002"
down_revision = "b001"
depends_on = "a003"


def upgrade():
    op.create_table("payments", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("payments")
