"""The version, in a module of its own: the package is also loaded under the name ``alembic_job``."""

__version__ = "0.1.0"
