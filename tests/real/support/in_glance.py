"""What glance's ``env.py`` expects around it: its configuration has been read."""

from collections.abc import Iterator
from contextlib import contextmanager

import glance.db.sqlalchemy.models  # noqa: F401  registers options, which has to come first
from glance.common import config


@contextmanager
def configured() -> Iterator[None]:
    """As ``glance-manage`` begins. The URL comes from a variable of its own, ``OS_DATABASE__CONNECTION``."""
    config.parse_args(args=[], default_config_files=[])
    yield
