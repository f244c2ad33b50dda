from alembic import context
from sqlalchemy import engine_from_config, pool, text

config = context.config

if context.is_offline_mode():
    context.configure(url=config.get_main_option("sqlalchemy.url"), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    section = config.get_section(config.config_ini_section, {})
    with engine_from_config(section, poolclass=pool.NullPool).connect() as connection:
        schema = "ops" if connection.dialect.name == "postgresql" else None
        if schema:
            with connection.begin():
                connection.execute(text("CREATE SCHEMA IF NOT EXISTS ops"))
        context.configure(
            connection=connection, version_table="migrations_done", version_table_schema=schema
        )
        with context.begin_transaction():
            context.run_migrations()
