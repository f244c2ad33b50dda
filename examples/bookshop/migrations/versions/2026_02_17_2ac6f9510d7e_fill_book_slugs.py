"""Fill book slugs from their titles

Revision ID: 2ac6f9510d7e
Revises: 93d0b84e6a1c
Create Date: 2026-02-17 09:31:18

"""

import sqlalchemy as sa
from alembic import context, op

revision = "2ac6f9510d7e"
down_revision = "93d0b84e6a1c"
branch_labels = None
depends_on = None


BATCH = 5_000

# Only what the statement needs, and not the application's model: that one will change.
books = sa.table(
    "books",
    sa.column("id", sa.Integer),
    sa.column("title", sa.String),
    sa.column("slug", sa.String),
)


def fill():
    """One UPDATE; the id makes the slug unique, and rows that have a slug stay as they are."""
    title = sa.func.lower(sa.func.replace(books.c.title, " ", "-"), type_=sa.String)
    slug = title + "-" + sa.cast(books.c.id, sa.String(11))
    return books.update().where(books.c.slug.is_(None)).values(slug=slug)


def upgrade():
    if context.is_offline_mode():
        op.execute(fill())
        return
    # By ranges of the primary key, so that no single statement locks the whole table for long.
    connection = op.get_bind()
    last = connection.execute(sa.select(sa.func.max(books.c.id))).scalar() or 0
    for start in range(0, last, BATCH):
        connection.execute(fill().where(books.c.id > start, books.c.id <= start + BATCH))


def downgrade():
    op.execute(books.update().values(slug=None))
