"""Create apples"""

from alembic import op

from app import models

revision = "0001"
down_revision = None


def upgrade():
    models.apples.create(op.get_bind())


def downgrade():
    op.drop_table("apples")
