"""The bookshop's tables as the application sees them, at the newest revision."""

import sqlalchemy as sa
from sqlalchemy.orm import declarative_base

# A constraint with a known name can be changed later, on every database alike.
Base = declarative_base(
    metadata=sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
)


class Author(Base):
    __tablename__ = "authors"

    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.String(200), nullable=False)


class Publisher(Base):
    __tablename__ = "publishers"

    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.String(200), nullable=False, unique=True)


class Book(Base):
    __tablename__ = "books"

    id = sa.Column(sa.Integer, primary_key=True)
    author_id = sa.Column(sa.ForeignKey("authors.id"), nullable=False, index=True)
    publisher_id = sa.Column(sa.ForeignKey("publishers.id"), index=True)
    isbn = sa.Column(sa.String(13), nullable=False, unique=True)
    title = sa.Column(sa.String(300), nullable=False)
    slug = sa.Column(sa.String(320), nullable=False, unique=True)
    price = sa.Column(sa.Numeric(10, 2), nullable=False)


class Customer(Base):
    __tablename__ = "customers"

    id = sa.Column(sa.Integer, primary_key=True)
    email = sa.Column(sa.String(254), nullable=False, unique=True)
    name = sa.Column(sa.String(200), nullable=False)


class Order(Base):
    __tablename__ = "orders"

    id = sa.Column(sa.Integer, primary_key=True)
    customer_id = sa.Column(sa.ForeignKey("customers.id"), nullable=False, index=True)
    placed_at = sa.Column(sa.DateTime, nullable=False, index=True)
    status = sa.Column(sa.String(20), nullable=False, server_default="placed")


class OrderLine(Base):
    __tablename__ = "order_lines"
    __table_args__ = (sa.CheckConstraint("quantity > 0", name="quantity_positive"),)

    order_id = sa.Column(sa.ForeignKey("orders.id"), primary_key=True)
    book_id = sa.Column(sa.ForeignKey("books.id"), primary_key=True, index=True)
    quantity = sa.Column(sa.Integer, nullable=False)
    unit_price = sa.Column(sa.Numeric(10, 2), nullable=False)


class Shipment(Base):
    __tablename__ = "shipments"

    id = sa.Column(sa.Integer, primary_key=True)
    order_id = sa.Column(sa.ForeignKey("orders.id"), nullable=False, index=True)
    carrier = sa.Column(sa.String(50), nullable=False)
    sent_at = sa.Column(sa.DateTime)
