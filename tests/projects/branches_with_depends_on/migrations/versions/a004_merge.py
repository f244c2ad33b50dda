"""Merge emails and phones"""

revision = "a004"
down_revision = ("a002", "a003")


def upgrade():
    pass


def downgrade():
    pass
