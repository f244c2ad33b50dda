"""Create publishers (the catalogue's line)

Revision ID: d50c3a8e971f
Revises: 68b1e7d3f02a
Create Date: 2026-03-02 10:15:39

"""

import sqlalchemy as sa
from alembic import op

revision = "d50c3a8e971f"
down_revision = "68b1e7d3f02a"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "publishers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publishers")),
        sa.UniqueConstraint("name", name=op.f("uq_publishers_name")),
    )
    with op.batch_alter_table("books") as books:
        books.add_column(sa.Column("publisher_id", sa.Integer(), nullable=True))
        books.create_index(op.f("ix_books_publisher_id"), ["publisher_id"])
        books.create_foreign_key(
            op.f("fk_books_publisher_id_publishers"), "publishers", ["publisher_id"], ["id"]
        )


def downgrade():
    with op.batch_alter_table("books") as books:
        books.drop_constraint(op.f("fk_books_publisher_id_publishers"), type_="foreignkey")
        books.drop_index(op.f("ix_books_publisher_id"))
        books.drop_column("publisher_id")
    op.drop_table("publishers")
