"""``alembic upgrade heads`` and nothing else, run by a project's own Python: what the program is compared with.

Arguments: configuration, script location (or empty), URL, and Python that calls ``upgrade`` (or empty).
"""

import sys

from alembic import command
from alembic.config import Config

ini, scripts, url, around = sys.argv[1:]


def upgrade() -> None:
    config = Config(ini)
    if scripts:
        config.set_main_option("script_location", scripts)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "heads")


exec(around or "upgrade()")
