"""Create pears"""

import sqlalchemy as sa
from alembic import op

revision = "0002_create_pears_for_the_new_shop_in_town"
down_revision = "0001"


def upgrade():
    op.create_table("pears", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("pears")
