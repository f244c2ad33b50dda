"""Shows the URL and the password in every way in which they get into logs."""

import base64
import json
import logging
import sys
from urllib.parse import quote, quote_plus

from alembic import context
from sqlalchemy import engine_from_config, pool
from sqlalchemy.engine import make_url

config = context.config
section = config.get_section(config.config_ini_section, {})
url = make_url(section["sqlalchemy.url"])
password = url.password or ""

logging.basicConfig(stream=sys.stdout, level=logging.INFO)
print(section)
print(url.render_as_string(hide_password=False) if hasattr(url, "render_as_string") else str(url))
for text in (section["sqlalchemy.url"], password):
    print("plain", text)
    print("quoted", quote(text, safe=""), quote_plus(text))
    print("doubled", text.replace("%", "%%"))
    print("repr", repr(text), repr(text.encode()), ascii(text))
    print("json", json.dumps({"value": text}))
print("base64", base64.b64encode(password.encode()).decode())
print("basic", base64.b64encode(f"{url.username}:{password}".encode()).decode())
sys.stdout.flush()
for letter in password:  # one write for each letter
    sys.stderr.write(letter)
    sys.stderr.flush()
logging.getLogger("app").warning("connecting to %s with %s", url, password)

engine = engine_from_config(section, poolclass=pool.NullPool, echo=True)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
