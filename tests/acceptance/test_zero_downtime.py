"""docs/zero-downtime.md: its revisions, and the statements of all images that use the database meanwhile."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.expect import URL
from tests.databases import Database
from tests.job import Job, Project, Result, Revision, make_project
from tests.processes import signal_tree

PAGE = (Path(__file__).parents[2] / "docs" / "zero-downtime.md").read_text(encoding="utf-8")
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
PER_REVISION = {"ALEMBIC_JOB_TRANSACTION": "per-revision"}
OF_THE_PAGE = dict(re.findall(r"^```python\n# ([^\n]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
DEPLOYS = {1: ["deploy 1: expand"], 2: ["deploy 2: fill", "deploy 2: require"], 3: [], 4: ["deploy 4: contract"]}
ON_POSTGRESQL = ["postgresql: check", "postgresql: validate", "postgresql: not null", "postgresql: index"]

BEFORE = """
op.create_table(
    "customers",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False){more},
)
"""
Run = Callable[..., Result]


@dataclass(frozen=True)
class Image:
    """What the pods of an image send."""

    writes: tuple[str, ...]
    reads: str

    def insert(self, database: Database, number: int) -> None:
        values = ", ".join([str(number), *(f"'new {number}'" for _ in self.writes)])
        database.execute(f"INSERT INTO customers ({', '.join(['id', *self.writes])}) VALUES ({values})")

    def rename(self, database: Database, number: int) -> None:
        values = ", ".join(f"{column} = 'changed {number}'" for column in self.writes)
        database.execute(f"UPDATE customers SET {values} WHERE id = {number}")

    def names(self, database: Database) -> dict[int, str]:
        return dict(database.query(f"SELECT id, {self.reads} FROM customers"))


def of_the_table() -> list[Image]:
    """The images as the page says what they write and read."""
    rows = re.findall(r"^\| (\d) \| .* \| ([^|]*) \| `(\w+)` \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    both = ("name", "full_name")
    return [Image(both if writes == "both" else (writes.strip("`"),), reads) for _, writes, reads in rows]


IMAGES = of_the_table()


class Shop:
    """The database that pods of several images use, and the names that all of them have to read."""

    def __init__(self, run_job: Run, project: Project, database: Database) -> None:
        self._run_job = run_job
        self.project = project
        self.database = database
        self.true: dict[int, str] = {}

    def migrate(self, *titles: str) -> None:
        for title in titles:
            add(self.project, title)
        result = self._run_job("upgrade", cwd=self.project.path, env={URL: self.database.url, **PER_REVISION})
        assert result.exit_code == 0, result.stdout

    def used_by(self, *images: Image) -> None:
        """Each writes, and changes what the others wrote; each reads what is true."""
        for image in images:
            number = len(self.true) + 1
            image.insert(self.database, number)
            self.true[number] = f"new {number}"
        mine = sorted(self.true)[-len(images) :]
        for image, number in zip(reversed(images), mine, strict=True):
            image.rename(self.database, number)
            self.true[number] = f"changed {number}"
            for reader in images:
                assert reader.names(self.database) == self.true


def add(project: Project, title: str) -> None:
    """Write a revision of the page; it leaves out the imports."""
    body = OF_THE_PAGE[title]
    [name] = re.findall(r'^revision, \w+ = "(\w+)"', body)
    head = "import sqlalchemy as sa\nfrom alembic import op\n\n"
    (project.versions / f"{name}.py").write_text(head + body)


def project_with(tmp_path: Path, more: str = "") -> Project:
    return make_project(tmp_path, [Revision("before", None, BEFORE.format(more=more))])


@pytest.fixture
def shop(tmp_path: Path, run_job: Run, database: Database) -> Shop:
    shop = Shop(run_job, project_with(tmp_path), database)
    shop.migrate()
    shop.used_by(IMAGES[0])
    return shop


@SERVERS
def test_at_each_deploy_the_image_and_the_one_before_it_read_what_is_true_also_after_a_rollback(shop: Shop) -> None:
    for deploy, titles in DEPLOYS.items():
        before, now = IMAGES[deploy - 1], IMAGES[deploy]
        shop.migrate(*titles)
        shop.used_by(before, now)  # side by side
        shop.used_by(now)
        shop.used_by(before)  # rolled back
        shop.used_by(now)
    assert shop.database.query("SELECT count(*) FROM customers WHERE full_name IS NULL") == [(0,)]


@SERVERS
def test_two_deploys_back_is_too_far_where_the_page_says_so(shop: Shop) -> None:
    for number in (1, 2, 3):
        shop.migrate(*DEPLOYS[number])
        shop.used_by(IMAGES[number])
    assert None in IMAGES[1].names(shop.database).values()
    shop.migrate(*DEPLOYS[4])
    with pytest.raises(Exception, match="name"):
        shop.used_by(IMAGES[2])


@SERVERS
def test_a_fill_of_what_is_empty_alone_misses_what_the_image_before_changed(shop: Shop) -> None:
    shop.migrate(*DEPLOYS[1])
    shop.used_by(IMAGES[0], IMAGES[1])
    filled = 'op.execute("UPDATE customers SET full_name = name WHERE full_name IS NULL")'
    shop.project.add(Revision("fill_full_name", "add_full_name", filled))
    shop.migrate("deploy 2: require")
    with pytest.raises(AssertionError):
        shop.used_by(IMAGES[2])


@SERVERS
def test_in_one_step_the_image_before_fails(shop: Shop) -> None:
    rename = 'op.alter_column("customers", "name", new_column_name="full_name", existing_type=sa.String(200))'
    shop.project.add(Revision("at_once", "before", rename))
    shop.migrate()
    with pytest.raises(Exception, match="name"):
        shop.used_by(IMAGES[0])


@SERVERS
def test_a_fill_that_was_killed_is_gone_on_with_as_the_page_says(
    shop: Shop, run_job: Run, start_job: Callable[..., Job]
) -> None:
    shop.migrate("deploy 1: expand")
    rows = ", ".join(f"({number}, 'new {number}')" for number in range(1_000, 5_000))
    shop.database.execute(f"INSERT INTO customers (id, name) VALUES {rows}")
    add(shop.project, "deploy 2: fill")
    # Killed between two batches, where the page's file has nothing that could wait.
    file = shop.project.versions / "fill_full_name.py"
    file.write_text(
        file.read_text().replace(
            "        for start",
            "        import os, time\n        for start",
        )
        + "            if start == 2_000 and os.environ.get('CUT'): print('cut here', flush=True); time.sleep(60)\n"
    )
    env = {URL: shop.database.url, **PER_REVISION}
    job = start_job("upgrade", cwd=shop.project.path, env={**env, "CUT": "1"})
    job.wait_for("user_output", text="cut here")
    signal_tree(job.pid, signal.SIGKILL)
    job.process.wait()
    assert shop.database.query("SELECT count(*) FROM customers WHERE full_name IS NULL") != [(0,)]
    again = run_job("upgrade", cwd=shop.project.path, env=env)
    if shop.database.dialect == "postgresql":
        assert again.exit_code == 42
        [said] = re.findall(r"`alembic-job (resolve fill_full_name [^`]*)`", PAGE)
        arguments = re.findall(r'"[^"]*"|\S+', said)
        assert run_job(*(one.strip('"') for one in arguments), cwd=shop.project.path, env=env).exit_code == 0
        again = run_job("upgrade", cwd=shop.project.path, env=env)
    assert (again.exit_code, again.finished["applied"]) == (0, ["fill_full_name"])
    assert shop.database.query("SELECT count(*) FROM customers WHERE full_name IS NULL OR full_name <> name") == [(0,)]


# --- MariaDB: what a statement keeps others from ------------------------------------------------------

OTHERS_GO_ON = "ALGORITHM=INPLACE, LOCK=NONE"


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("change", "at_most", "too_little"),
    [
        ("ADD COLUMN more INTEGER", "ALGORITHM=INSTANT", None),
        ("ADD COLUMN more INTEGER NOT NULL DEFAULT 1", "ALGORITHM=INSTANT", None),
        ("DROP COLUMN town", "ALGORITHM=INSTANT", None),
        ("RENAME COLUMN town TO city", "ALGORITHM=INSTANT", None),
        ("MODIFY town VARCHAR(20) NOT NULL", OTHERS_GO_ON, "ALGORITHM=INSTANT"),
        ("MODIFY name VARCHAR(200) NULL", OTHERS_GO_ON, "ALGORITHM=INSTANT"),
        ("ADD INDEX town_ix (town)", OTHERS_GO_ON, "ALGORITHM=INSTANT"),
        (
            "ADD CONSTRAINT fk FOREIGN KEY (other) REFERENCES customers (id)",
            "ALGORITHM=COPY, LOCK=SHARED",
            OTHERS_GO_ON,
        ),
        ("ADD CONSTRAINT ck CHECK (other > 0)", "ALGORITHM=COPY, LOCK=SHARED", OTHERS_GO_ON),
        ("MODIFY other BIGINT", "ALGORITHM=COPY, LOCK=SHARED", OTHERS_GO_ON),
    ],
)
def test_mariadb_does_as_much_as_the_table_says_and_no_less(
    database: Database, change: str, at_most: str, too_little: str | None
) -> None:
    columns = "id INTEGER PRIMARY KEY, name VARCHAR(200) NOT NULL, town VARCHAR(20), other INTEGER"
    database.execute(f"CREATE TABLE customers ({columns})", "INSERT INTO customers VALUES (1, 'a', 'b', NULL)")
    if too_little:
        with pytest.raises(Exception, match="is not supported"):
            database.execute(f"ALTER TABLE customers {change}, {too_little}")
    database.execute(f"ALTER TABLE customers {change}, {at_most}")


# --- PostgreSQL: large tables -------------------------------------------------------------------------


@contextlib.contextmanager
def open_transaction(database: Database, *statements: str) -> Iterator[Any]:
    connection = database.connect()
    try:
        for sql in ("BEGIN", *statements):
            connection.execute(sql)
        yield connection
    finally:
        connection.close()


def large(tmp_path: Path, run_job: Run, database: Database, titles: list[str]) -> Shop:
    """A table with the new column filled, and the revisions of these titles already run."""
    shop = Shop(run_job, project_with(tmp_path, more=', sa.Column("full_name", sa.String(200))'), database)
    shop.migrate(*titles)
    database.execute("INSERT INTO customers (id, name, full_name) VALUES (1, 'a', 'a')")
    return shop


@POSTGRESQL
def test_the_recipe_for_postgresql_leaves_what_it_promises(tmp_path: Path, run_job: Run, database: Database) -> None:
    large(tmp_path, run_job, database, ON_POSTGRESQL)
    said = database.query(
        "SELECT attnotnull FROM pg_attribute WHERE attname = 'full_name' AND attrelid = 'customers'::regclass"
    )
    assert said == [(True,)]
    assert database.query(
        "SELECT indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname = 'ix_customers_full_name'"
    ) == [(True,)]
    assert database.query("SELECT count(*) FROM pg_constraint WHERE conname = 'full_name_there'") == [(0,)]


@POSTGRESQL
def test_validating_does_not_wait_for_who_writes_and_a_plain_not_null_does(
    tmp_path: Path, run_job: Run, database: Database
) -> None:
    shop = large(tmp_path, run_job, database, ON_POSTGRESQL[:1])
    with open_transaction(database, "UPDATE customers SET name = 'b' WHERE id = 1"):
        shop.migrate("postgresql: validate")
        shop.project.add(
            Revision("plainly", "validate_full_name", 'op.alter_column("customers", "full_name", nullable=False)')
        )
        env = {URL: database.url, "ALEMBIC_JOB_DDL_LOCK_TIMEOUT": "500ms", "ALEMBIC_JOB_DDL_RETRY_FOR": "0s"}
        assert run_job("upgrade", cwd=shop.project.path, env=env).exit_code == 43


@POSTGRESQL
def test_while_the_index_is_built_others_write(
    tmp_path: Path, run_job: Run, start_job: Callable[..., Job], database: Database
) -> None:
    shop = large(tmp_path, run_job, database, ON_POSTGRESQL[:3])
    add(shop.project, "postgresql: index")
    with open_transaction(database, "UPDATE customers SET name = 'b' WHERE id = 1") as older:
        job = start_job("upgrade", cwd=shop.project.path, env={URL: database.url, "ALEMBIC_JOB_HEARTBEAT": "500ms"})
        job.wait_for("revision_progress", revision="index_full_name")  # it waits for the older transaction
        with contextlib.closing(database.connect()) as writer:
            writer.execute("SET lock_timeout = '2s'")
            writer.execute("INSERT INTO customers (id, name, full_name) VALUES (2, 'c', 'c')")
        older.execute("COMMIT")
    assert job.finish().exit_code == 0
