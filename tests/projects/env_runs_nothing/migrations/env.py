from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
section = config.get_section(config.config_ini_section, {})

with engine_from_config(section, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
