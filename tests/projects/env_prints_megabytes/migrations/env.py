"""More than 20 MB of the things that trip a reader of lines."""

import subprocess
import sys

out = sys.stdout.buffer
for number in range(10_000):
    out.write(b"%06d %s\n" % (number, b"." * 1_000))
out.write(b"x" * 10_000_000 + b"\n")
for percent in range(101):
    out.write(b"\rprogress %3d %%" % percent)
out.write(b"\ninvalid UTF-8: \xff\xfe\xc3( and a NUL: \x00\n")
out.flush()
sys.stderr.write(f"to stderr {'.' * 1_000}\n" * 1_000)
subprocess.run([sys.executable, "-c", "print('from a child process\\n' * 1_000)"], check=True)
sys.stdout.write("the last words, without a newline")
sys.stdout.flush()

from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config

if context.is_offline_mode():
    context.configure(url=config.get_main_option("sqlalchemy.url"), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    section = config.get_section(config.config_ini_section, {})
    with engine_from_config(section, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
