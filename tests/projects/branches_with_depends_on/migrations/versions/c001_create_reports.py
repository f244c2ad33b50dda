"""Create reports"""

import sqlalchemy as sa
from alembic import op

revision = "c001"
down_revision = None
branch_labels = ("reports",)
depends_on = "a004"


def upgrade():
    op.create_table("reports", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("reports")
