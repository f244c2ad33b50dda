"""alembic-job: runs Alembic migrations inside a container."""

from .version import __version__ as __version__
