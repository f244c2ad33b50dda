"""Every kind of env.py that Alembic documents, each against what plain Alembic leaves in a second database."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import alembic
import pytest

from tests.acceptance import plain
from tests.acceptance.expect import PROJECTS, URL, refused
from tests.databases import Database, Server, sqlite_database
from tests.job import Project, Result, Revision, creates, linear, make_project

Run = Callable[..., Result]
ALEMBIC = tuple(map(int, alembic.__version__.split(".")[:2]))
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

ENV = """
import os
import sqlalchemy as sa
from alembic import context
{before}
engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.pool.NullPool)
{engine}
with engine.connect() as connection:
    context.configure(connection=connection, {options})
    with context.begin_transaction():
        context.run_migrations()
"""


def env_with(options: str = "", *, before: str = "", engine: str = "") -> str:
    return ENV.format(options=options, before=textwrap.dedent(before), engine=textwrap.dedent(engine))


@dataclass(frozen=True)
class Twins:
    """Two empty databases of the same kind: one for the job, one for plain Alembic."""

    ours: Database
    theirs: Database
    run_job: Run
    driver: str = ""  # dialect+driver, where it is not the usual one

    def url(self, database: Database) -> str:
        """As env.py gets it."""
        scheme, _, rest = database.url.partition("://")
        return f"{self.driver or scheme}://{rest}"

    def run(self, project: Project, *arguments: str, **env: str) -> Result:
        """The job, on ours."""
        return self.run_job(*(arguments or ("upgrade",)), cwd=project.path, env={URL: self.url(self.ours), **env})

    def plain(self, project: Project, *arguments: str, **env: str) -> str:
        """Plain Alembic, on theirs: what it wrote to stderr when it failed, else nothing."""
        with_url(project, self.url(self.theirs))
        return self.plain_as_it_is(project, *arguments, **env)

    def plain_as_it_is(self, project: Project, *arguments: str, **env: str) -> str:
        """The same, where the configuration names the databases already."""
        ended = plain.alembic(project.path, *(arguments or ("upgrade", "heads")), **env)
        return (ended.stderr or "failed") if ended.returncode else ""

    def end_alike(self, project: Project, *, schemas: Sequence[str | None] = (None,), **env: str) -> Result:
        """Both succeed and leave the same; the job did what it had planned, and has nothing to do after that."""
        planned = [one["revision"] for one in self.run(project, "plan", **env).one("plan_ready")["pending"]]
        result = self.run(project, **env)
        assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
        assert result.finished["applied"] == planned != []
        assert self.plain(project, **env) == ""
        self.hold_the_same(schemas)
        again = self.run(project, **env)
        assert (again.exit_code, again.finished["outcome"]) == (0, "up_to_date"), again.stdout
        return result

    def hold_the_same(self, schemas: Sequence[str | None] = (None,)) -> None:
        """The schema, and the rows of every table, the version table's among them."""
        for schema in schemas:
            assert plain.schema(self.ours, schema) == plain.schema(self.theirs, schema)
            assert plain.rows(self.ours, schema) == plain.rows(self.theirs, schema)


def with_url(project: Project, url: str) -> None:
    """Let the project's own configuration name the database, for plain Alembic."""
    text, escaped = project.ini.read_text(), url.replace("%", "%%")
    lines = [line for line in text.splitlines() if not re.match(r"sqlalchemy\.url\s*=", line)]
    lines.insert(lines.index("[alembic]") + 1, f"sqlalchemy.url = {escaped}")
    project.ini.write_text("\n".join(lines) + "\n")


@pytest.fixture
def twins(database: Database, tmp_path: Path, request: pytest.FixtureRequest, run_job: Run) -> Twins:
    if database.path:
        return Twins(database, sqlite_database(tmp_path / "theirs.sqlite"), run_job)
    server: Server = request.getfixturevalue(f"{database.dialect}_server")
    return Twins(database, server.new_database(), run_job)


# --- options of context.configure ---------------------------------------------------------------------

BATCH = [
    Revision(
        "r1",
        upgrade="""
            op.create_table("shops", sa.Column("id", sa.Integer, primary_key=True))
            op.create_table(
                "books",
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("title", sa.String(40)),
                sa.Column("price", sa.Integer),
                sa.Column("shop", sa.Integer, sa.ForeignKey("shops.id", name="fk_shop")),
            )
            op.execute("INSERT INTO books (id, title, price) VALUES (1, 'one', 5), (2, 'two', 7)")
        """,
    ),
    Revision(
        "r2",
        "r1",
        upgrade="""
            with op.batch_alter_table("books") as batch:
                batch.alter_column("title", existing_type=sa.String(40), type_=sa.String(200), nullable=False)
                batch.add_column(sa.Column("isbn", sa.String(13)))
                batch.create_unique_constraint("uq_isbn", ["isbn"])
                batch.drop_constraint("fk_shop", type_="foreignkey")
            with op.batch_alter_table("books", recreate="always") as batch:
                batch.drop_column("price")
                batch.create_index("ix_title", ["title"])
        """,
    ),
]


def test_batch_operations_leave_what_plain_alembic_leaves(tmp_path: Path, twins: Twins) -> None:
    project = make_project(tmp_path, BATCH, env=env_with("render_as_batch=True"))
    twins.end_alike(project)
    assert twins.ours.query("SELECT id, title FROM books ORDER BY id") == [(1, "one"), (2, "two")]


def test_a_batch_operation_that_fails_leaves_what_plain_alembic_leaves_and_tells_it(
    tmp_path: Path, twins: Twins
) -> None:
    fails = Revision(
        "r2",
        "r1",
        upgrade="""
            op.execute("INSERT INTO books (id, title) VALUES (3, 'one')")
            with op.batch_alter_table("books", recreate="always") as batch:
                batch.create_unique_constraint("uq_title", ["title"])
        """,
    )
    project = make_project(tmp_path, [BATCH[0], fails], env=env_with("render_as_batch=True"))
    result = twins.run(project)
    assert twins.plain(project) != ""
    twins.hold_the_same()
    assert twins.ours.tables() - {"alembic_version"} <= {"shops", "books"}
    durable = [one["statement_number"] for one in result.one("revision_failed")["durable_statements"]]
    there = twins.ours.dialect != "postgresql" and twins.ours.query("SELECT id FROM books WHERE id = 3") != []
    assert (durable, there) == (([1], True) if twins.ours.dialect == "mariadb" else ([], False))
    refused(result, *((41, "revision_partial") if there else (40, "revision_failed")), "r2")


@SERVERS
def test_what_a_revision_left_that_looks_at_its_tables_and_fails_then_is_told(tmp_path: Path, twins: Twins) -> None:
    looks = """
        op.execute("INSERT INTO books (id, title) VALUES (3, 'three')")
        assert len(sa.inspect(op.get_bind()).get_columns("books")) == 4
        op.create_table("books", sa.Column("id", sa.Integer))
    """
    project = make_project(tmp_path, [BATCH[0], Revision("r2", "r1", upgrade=looks)], env=env_with())
    result = twins.run(project)
    assert twins.plain(project) != ""
    twins.hold_the_same()
    stays = twins.ours.dialect == "mariadb"  # whose CREATE commits what came before it, also when it fails
    refused(result, *((41, "revision_partial") if stays else (40, "revision_failed")), "r2", "statement 2")
    durable = [one["statement_number"] for one in result.one("revision_failed")["durable_statements"]]
    assert durable == ([1] if stays else [])


OWN_SCHEMA = "schema = {'postgresql': 'ops', 'mysql': os.environ.get('OPS')}.get(engine.dialect.name)"


def second_schema(database: Database, request: pytest.FixtureRequest, *, create: bool = True) -> str | None:
    """A schema beside the database's own; on MariaDB that is another database of the same user."""
    if database.path:
        return None
    if database.dialect == "postgresql":
        if create:
            database.execute("CREATE SCHEMA ops")
        return "ops"
    assert database.login
    name = f"{database.login.name}_ops"
    server: Server = request.getfixturevalue("mariadb_server")
    server.admin(f"GRANT ALL PRIVILEGES ON {name}.* TO {database.login.user}@'%'")
    if create:
        server.admin(f"CREATE DATABASE {name}")
    return name


def in_schemas(twins: Twins, request: pytest.FixtureRequest, *, create: bool = True) -> tuple[str, str]:
    ours, theirs = (second_schema(one, request, create=create) for one in (twins.ours, twins.theirs))
    return ours or "", theirs or ""


def run_in_schemas(twins: Twins, project: Project, ours: str, theirs: str) -> Result:
    """Run both, each with the name of its own second schema, and compare these."""
    result = twins.run(project, OPS=ours)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
    assert twins.plain(project, OPS=theirs) == ""
    twins.hold_the_same()
    if ours:
        for tell in (plain.schema, plain.rows):
            told = [
                repr(tell(one, name)).replace(name, "*") for one, name in ((twins.ours, ours), (twins.theirs, theirs))
            ]
            assert told[0] == told[1] != "{}"
    again = twins.run(project, OPS=ours)
    assert (again.exit_code, again.finished["outcome"]) == (0, "up_to_date"), again.stdout
    return result


@SERVERS
def test_a_version_table_of_another_name_in_another_schema_is_written_and_found_again(
    tmp_path: Path, twins: Twins, request: pytest.FixtureRequest
) -> None:
    env = env_with("version_table='migrations_done', version_table_schema=schema", engine=OWN_SCHEMA)
    project = make_project(tmp_path, linear(3), env=env)
    ours, theirs = in_schemas(twins, request)
    result = run_in_schemas(twins, project, ours, theirs)
    connected = result.of("environment_connected")[0]
    assert (connected["version_table"], connected["version_table_schema"]) == ("migrations_done", ours)
    assert "alembic_version" not in twins.ours.tables()


@SERVERS
def test_a_version_table_in_a_schema_that_is_not_there_ends_as_with_plain_alembic_and_is_told(
    tmp_path: Path, twins: Twins, request: pytest.FixtureRequest
) -> None:
    project = make_project(tmp_path, linear(2), env=env_with("version_table_schema=schema", engine=OWN_SCHEMA))
    ours, theirs = in_schemas(twins, request, create=False)
    result = twins.run(project, OPS=ours)
    refused(result, 2, "config_invalid", ours, "alembic_version")
    assert f"CREATE SCHEMA {ours};" in result.finished["hint"]
    assert result.finished["applied"] == []
    assert twins.plain(project, OPS=theirs) != ""
    twins.hold_the_same()


def test_tables_in_a_second_schema_are_migrated_too(
    tmp_path: Path, twins: Twins, request: pytest.FixtureRequest
) -> None:
    schema = "'ops' if op.get_bind().dialect.name != 'mysql' else os.environ['OPS']"
    revisions = [
        creates("plain", "r1"),
        Revision("r2", "r1", upgrade=f'op.create_table("far", sa.Column("id", sa.Integer), schema={schema})'),
        Revision("r3", "r2", upgrade=f'op.add_column("far", sa.Column("name", sa.String(9)), schema={schema})'),
    ]
    attach = """
        if engine.dialect.name == "sqlite":
            file = engine.url.database + ".ops"
            sa.event.listen(engine, "connect", lambda raw, _: raw.execute(f"ATTACH '{file}' AS ops"))
    """
    project = make_project(tmp_path, revisions, env=env_with("include_schemas=True", engine=attach))
    run_in_schemas(twins, project, *in_schemas(twins, request))
    if twins.ours.path:
        ours, theirs = (sqlite_database(Path(f"{one.path}.ops")) for one in (twins.ours, twins.theirs))
        assert plain.schema(ours) == plain.schema(theirs) != {}


AUTOCOMMIT = Revision(
    "r2",
    "r1",
    upgrade="""
        op.add_column("t1", sa.Column("name", sa.String(20)))
        with op.get_context().autocommit_block():
            op.create_index("ix_name", "t1", ["name"], **{"postgresql_concurrently": True})
        op.create_table("t2", sa.Column("id", sa.Integer))
    """,
)


@pytest.mark.parametrize("per_migration", [True, False])
def test_an_autocommit_block_commits_as_with_plain_alembic(tmp_path: Path, twins: Twins, per_migration: bool) -> None:
    env = env_with(f"transaction_per_migration={per_migration}")
    project = make_project(tmp_path, [linear(1)[0], AUTOCOMMIT, creates("t3", "r3", "r2")], env=env)
    result = twins.end_alike(project)
    transaction = "per-revision" if per_migration or twins.ours.dialect != "postgresql" else "whole-run"
    assert {event["transaction"] for event in result.of("environment_connected")} == {transaction}
    assert [one for event in result.of("transaction_committed") for one in event["revisions"]] == ["r1", "r2", "r3"]


@pytest.mark.parametrize("per_migration", [True, False])
def test_after_an_autocommit_block_a_failure_leaves_what_plain_alembic_leaves(
    tmp_path: Path, twins: Twins, per_migration: bool
) -> None:
    fails = Revision("r3", "r2", upgrade='op.execute("INSERT INTO t1 (name) VALUES (\'x\')")\nraise ValueError("no")')
    env = env_with(f"transaction_per_migration={per_migration}")
    project = make_project(tmp_path, [linear(1)[0], AUTOCOMMIT, fails], env=env)
    result = twins.run(project)
    assert twins.plain(project) != ""
    twins.hold_the_same()
    assert set(result.finished["to"]) == twins.ours.versions()
    if per_migration or twins.ours.dialect != "postgresql":
        refused(result, 40, "revision_failed", "r3", "no")
        assert result.finished["applied"] == ["r1", "r2"]
    else:  # the block commits what came before it, and r2's version row, which comes after it, goes with r3
        refused(result, 41, "revision_partial", "r3", "Revision r2 was executed", "statements 1, 2")
        assert result.finished["applied"] == ["r1"]


ON_VERSION_APPLY = """
    def note(*, ctx, step, heads, run_args, **more):
        ctx.connection.execute(sa.text(f"INSERT INTO noted VALUES ('{step.up_revision_id}', {len(heads)})"))
        print("noted", step.up_revision_id, sorted(run_args))

    def also(**more):
        print("also", more["step"].up_revision_id)
"""


@pytest.mark.parametrize("callbacks", ["note", "[note, also]"])
def test_callbacks_of_the_project_are_called_beside_ours(tmp_path: Path, twins: Twins, callbacks: str) -> None:
    env = env_with(f"on_version_apply={callbacks}", before=ON_VERSION_APPLY)
    notes = Revision(
        "r1", upgrade='op.create_table("noted", sa.Column("revision", sa.String(9)), sa.Column("heads", sa.Integer))'
    )
    project = make_project(tmp_path, [notes, creates("t2", "r2", "r1"), creates("t3", "r3", "r2")], env=env)
    result = twins.end_alike(project)
    assert twins.ours.query("SELECT * FROM noted") == [("r1", 1), ("r2", 1), ("r3", 1)]
    said = [event["text"] for event in result.of("user_output")]
    assert [text for text in said if text.startswith("noted")] == [f"noted r{n} []" for n in (1, 2, 3)]
    assert said.count("also r3") == ("also" in callbacks)
    assert len(result.of("revision_executed")) == 3  # which only our own callback knows of


def test_what_a_callback_of_the_project_raises_is_the_revisions_failure(tmp_path: Path, twins: Twins) -> None:
    refuse = "def refuse(step, **more):\n    if step.up_revision_id == 'r2': raise ValueError('not noted')"
    project = make_project(tmp_path, linear(3), env=env_with("on_version_apply=refuse", before=refuse))
    result = twins.run(project)
    assert twins.plain(project) != ""
    twins.hold_the_same()
    assert "not noted" in result.finished["error"]
    assert set(result.finished["to"]) == twins.ours.versions()
    refused(
        result, *((41, "revision_partial") if twins.ours.dialect != "postgresql" else (40, "revision_failed")), "r2"
    )


@SQLITE
def test_what_only_autogenerate_uses_is_in_nobodys_way(tmp_path: Path, twins: Twins) -> None:
    options = """target_metadata=sa.MetaData(), process_revision_directives=directives, include_object=lambda *_: True,
        include_name=lambda *_: True, compare_type=True, compare_server_default=True, user_module_prefix="x.",
        render_item=lambda *_: False, output_encoding="utf-8", upgrade_token="up", downgrade_token="down",
        sqlalchemy_module_prefix="sa.", alembic_module_prefix="op.", tag="mine" """
    before = "def directives(context, revision, directives):\n    raise RuntimeError('only for autogenerate')"
    twins.end_alike(make_project(tmp_path, linear(2), env=env_with(options, before=before)))


# --- what the server says ------------------------------------------------------------------------------

WARNS = """
    op.execute("SET SESSION sql_mode = ''")
    op.execute("CREATE TABLE notes (text VARCHAR(4) CHARACTER SET utf8mb3)")
    op.execute("DROP TABLE IF EXISTS nowhere")
    for _ in range(3):
        op.execute("INSERT INTO notes VALUES ('too long')")
        op.execute("INSERT INTO notes VALUES ('\U0001f600')")
"""


def warned_once_each(result: Result, revision: str) -> None:
    """The server's warnings are there, as such, once, and without the values of rows."""
    said = [event for event in result.of("user_output") if event["stream"] == "server"]
    assert [(event["level"], event["revision"]) for event in said] == [("warning", revision)] * 2
    assert said[0]["text"] == "Data truncated for column 'text' at row 1 (1265)"
    assert said[1]["text"].startswith("Incorrect string value: ? for column")


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_what_the_server_warns_of_is_an_event_and_said_once(tmp_path: Path, twins: Twins) -> None:
    project = make_project(tmp_path, [creates("t1", "r1"), Revision("r2", "r1", upgrade=WARNS)], env=env_with())
    warned_once_each(twins.end_alike(project), "r2")


# --- where revisions and modules are ------------------------------------------------------------------


def spread(project: Project, places: dict[str, list[Revision]]) -> None:
    """Write revisions into folders of their own, below the project."""
    for place, revisions in places.items():
        folder = project.path / place
        folder.mkdir(parents=True, exist_ok=True)
        for revision in revisions:
            (folder / revision.file_name).write_text(revision.text)


def across() -> dict[str, list[Revision]]:
    """Three branches with labels, one a folder; they depend on each other and merge."""
    return {
        "migrations/versions": [creates("a1", "a1", labels="core"), creates("a2", "a2", "a1")],
        "plugins/billing/versions": [
            creates("b1", "b1", labels="billing", depends_on="a1"),
            creates("b2", "b2", "b1", depends_on="core"),
        ],
        "plugins/stock": [creates("c1", "c1", labels="stock", depends_on=("b1", "a2"))],
    }


def with_locations(tmp_path: Path, locations: Sequence[str], **options: str) -> Project:
    separator = {"path_separator": "os"} if ALEMBIC >= (1, 16) else {"version_path_separator": "os"}
    joined = os.pathsep.join(f"%(here)s/{place}" for place in locations)
    return make_project(tmp_path, env=env_with(), ini={**separator, "version_locations": joined, **options})


def test_branches_in_several_folders_that_depend_on_each_other_are_followed(tmp_path: Path, twins: Twins) -> None:
    project = with_locations(tmp_path, list(across()))
    spread(project, across())
    result = twins.end_alike(project)
    assert len(result.finished["applied"]) == 5
    assert {event["path"].rpartition("/")[0] for event in result.of("revision_started")} == set(across())
    spread(project, {"plugins/stock": [creates("m", "m", ("c1", "b2"))]})
    assert twins.run(project, "upgrade", "billing@head").finished["applied"] == ["m"]
    assert twins.plain(project, "upgrade", "billing@head") == ""
    twins.hold_the_same()


@SQLITE
def test_folders_in_version_locations_are_searched_to_the_bottom_where_alembic_does(
    tmp_path: Path, twins: Twins
) -> None:
    project = with_locations(tmp_path, ["migrations/versions", "plugins"], recursive_version_locations="true")
    spread(project, across())
    found = [event["revision"] for event in twins.run_job("history", cwd=project.path).of("revision_listed")]
    if ALEMBIC >= (1, 10):
        assert sorted(found) == ["a1", "a2", "b1", "b2", "c1"]
        twins.end_alike(project)
    else:
        assert sorted(found) == ["a1", "a2"]


@SQLITE
def test_modules_that_prepend_sys_path_leads_to_are_found(tmp_path: Path, twins: Twins) -> None:
    revision = Revision("r1", upgrade="import tables_of_mine\ntables_of_mine.make(op)")
    env = env_with(before="import options_of_mine", options="**options_of_mine.OPTIONS")
    project = make_project(tmp_path, [revision], env=env, ini={"prepend_sys_path": "src"})
    (project.path / "src").mkdir()
    (project.path / "src" / "options_of_mine.py").write_text("OPTIONS = {'version_table': 'mine'}")
    (project.path / "src" / "tables_of_mine.py").write_text("def make(op): op.execute('CREATE TABLE made (a INT)')")
    twins.end_alike(project)
    assert twins.ours.tables() == {"made", "mine"}


# --- the graph that only exists inside env.py ---------------------------------------------------------

NEEDS_APP = PROJECTS / "revision_needs_app"
SETS_LOCATIONS = """
    context.script.version_locations = [os.path.join(context.script.dir, "elsewhere")]
"""


def test_revisions_that_import_what_only_env_py_makes_importable_are_planned_and_run(
    tmp_path: Path, twins: Twins
) -> None:
    project = Project(tmp_path / "copy")
    shutil.copytree(NEEDS_APP, project.path, ignore=shutil.ignore_patterns("__pycache__"))
    status = twins.run(project, "status").one("plan_ready")
    assert [one["revision"] for one in status["pending"]] == ["0001", "0002"]
    twins.end_alike(project)
    current = twins.run(project, "current").of("revision_listed")
    assert [event["revision"] for event in current] == ["0002"]


@SQLITE
@pytest.mark.parametrize("command", ["heads", "history"])
def test_revisions_that_cannot_be_imported_outside_of_env_py_are_told_without_a_database_as_plain_alembic_does(
    twins: Twins, command: str
) -> None:
    result = twins.run_job(command, cwd=NEEDS_APP)
    ended = plain.alembic(NEEDS_APP, command)
    assert ended.returncode and "No module named 'app'" in ended.stderr
    refused(result, 2, "config_invalid", "No module named 'app'", "migrations/versions/000")


def test_version_locations_that_env_py_sets_are_planned_and_run(tmp_path: Path, twins: Twins) -> None:
    project = make_project(tmp_path, linear(3), env=env_with(before=SETS_LOCATIONS))
    project.versions.rename(project.versions.parent / "elsewhere")
    result = twins.end_alike(project)
    assert result.finished["applied"] == ["r1", "r2", "r3"]
    for command in ("heads", "history"):  # which do not run env.py, here as there; before 1.10 the folder must exist
        told, ended = twins.run_job(command, cwd=project.path), plain.alembic(project.path, command)
        assert (told.exit_code, told.of("revision_listed")) == (2 if ended.returncode else 0, [])
        assert ended.stdout == ""


# --- what env.py does besides --------------------------------------------------------------------------

BESIDES = {
    "exits with 0 when it is done": ("", "raise SystemExit", 0),
    "exits with 1 when it is done": ("", "import sys; sys.exit(1)", 2),
    "raises when it is done": ("", "raise RuntimeError('too late')", 2),
    "spawns a process that imports the program again": (
        """
        import multiprocessing
        with multiprocessing.get_context("spawn").Pool(1) as workers:
            print(workers.map(abs, [-3]))
        """,
        "",
        0,
    ),
    "leaves a thread behind": (
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()",
        "",
        0,
    ),
    "has last words": ("import atexit; atexit.register(print, 'the last words')", "", 0),
    "replaces the hooks of the interpreter": (
        "import sys; sys.excepthook = sys.displayhook = sys.unraisablehook = lambda *_: print('hooked')",
        "",
        0,
    ),
    "changes the directory for good": ("os.chdir('/')", "", 0),
    "changes the locale and the environment": (
        "import locale; locale.setlocale(locale.LC_ALL, 'C'); os.environ.clear()",
        "",
        0,
    ),
    "gives itself another database by the environment": (
        "os.environ['DATABASE_URL'] = os.environ['ALEMBIC_JOB_DATABASE_URL'] = 'sqlite:////nowhere/at/all.sqlite'",
        "",
        0,
    ),
    "works with what the revisions made": (
        "",
        """
        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO t2 (id) VALUES (NULL)"))
            connection.execute(sa.text("DELETE FROM t2"))
        """,
        0,
    ),
    "logs to a file of its own and nowhere else": (
        "import logging; logging.basicConfig(filename='migrations.log', level=logging.DEBUG, force=True)",
        "",
        0,
    ),
    "turns warnings into errors": ("import warnings; warnings.simplefilter('error')", "", 0),
    "has a time-out of its own": ("import signal; signal.signal(signal.SIGALRM, print); signal.alarm(60)", "", 0),
    "uses tqdm's way to show progress": (
        "import sys; [sys.stderr.write('\\r%d' % n) for n in range(50)]; sys.stderr.flush()",
        "",
        0,
    ),
}


@SQLITE
@pytest.mark.parametrize("what", BESIDES)
def test_what_env_py_does_besides_is_its_own_business(tmp_path: Path, twins: Twins, what: str) -> None:
    before, after, code = BESIDES[what]
    project = make_project(tmp_path, linear(2), env=env_with(before=before) + textwrap.dedent(after))
    result = twins.run(project)  # which has held stdout, stderr and the last line against the contract
    assert (result.exit_code, result.finished["applied"]) == (code, ["r1", "r2"]), result.stdout
    assert bool(twins.plain(project)) == bool(code)
    twins.hold_the_same()
    if code:
        refused(result, 2, "config_invalid", "outside of any revision")
    assert twins.run(project, "status", "--exit-code").exit_code in (0, code)


# --- several engines ----------------------------------------------------------------------------------


def test_an_engine_that_env_py_only_reads_from_is_no_database_to_migrate(tmp_path: Path, twins: Twins) -> None:
    reads = """
        other = sa.create_engine(f"sqlite:///{context.script.dir}/tenants.sqlite")
        with other.begin() as reading:
            print("tenants", reading.exec_driver_sql("SELECT 3").scalar())
    """
    project = make_project(tmp_path, linear(2), env=env_with(engine=reads))
    result = twins.end_alike(project)
    assert len(result.of("plan_ready")) == 1
    assert "tenants 3" in [event["text"] for event in result.of("user_output")]


TWO_TABLES = """
import sqlalchemy as sa
from alembic import context

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.pool.NullPool)
for table in ("version_one", "version_two"):
    with engine.connect() as connection:
        context.configure(connection=connection, version_table=table, upgrade_token=table)
        with context.begin_transaction():
            context.run_migrations(table=table)
"""


def test_one_database_with_two_version_tables_has_a_plan_for_each(tmp_path: Path, twins: Twins) -> None:
    body = 'op.create_table(f"{table}_%s", sa.Column("id", sa.Integer))'
    project = make_project(tmp_path, [Revision("r1", upgrade=body % 1), Revision("r2", "r1", body % 2)], env=TWO_TABLES)
    for path in project.versions.glob("*.py"):
        path.write_text(path.read_text().replace("def upgrade()", "def upgrade(table)"))
    result = twins.run(project)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
    sections = [event["section"] for event in result.of("plan_ready")]
    assert len(sections) == len(set(sections)) == 2
    assert twins.plain(project) == ""
    twins.hold_the_same()
    assert twins.run(project).finished["outcome"] == "up_to_date"


# --- the templates of the installed Alembic -----------------------------------------------------------

TEMPLATES = Path(alembic.__file__).parent / "templates"


def from_template(tmp_path: Path, template: str, *options: str) -> Project:
    """What ``alembic init`` makes in an empty directory, with three revisions."""
    project = Project(tmp_path / "project")
    project.path.mkdir()
    if template.startswith("pyproject"):
        (project.path / "pyproject.toml").write_text('[project]\nname = "mine"\nversion = "1"\n')
    ended = plain.alembic(project.path, "init", "--template", template, "migrations")
    assert ended.returncode == 0, ended.stderr
    for revision in linear(3):
        (project.versions / revision.file_name).write_text(revision.text)
    return project


@pytest.mark.parametrize("template", ["generic", "pyproject"])
def test_a_project_as_alembic_init_makes_it_runs_as_it_is(tmp_path: Path, twins: Twins, template: str) -> None:
    if has_template(template):
        twins.end_alike(from_template(tmp_path, template))


def has_template(template: str) -> bool:
    """Those with a pyproject.toml came with Alembic 1.16."""
    there = (TEMPLATES / template).is_dir()
    assert there or (ALEMBIC < (1, 16) and template.startswith("pyproject"))
    return there


MULTIDB = """
def upgrade(engine_name):
    globals()[f"upgrade_{engine_name}"]()


def upgrade_engine1():
    op.create_table("%(id)s_one", sa.Column("id", sa.Integer))


def upgrade_engine2():
    op.create_table("%(id)s_two", sa.Column("id", sa.Integer))
"""


def test_a_project_of_the_multidb_template_migrates_each_of_its_databases(
    tmp_path: Path, twins: Twins, request: pytest.FixtureRequest
) -> None:
    project = from_template(tmp_path, "multidb")
    for path in project.versions.glob("*.py"):
        head = path.read_text().partition("def upgrade")[0]
        path.write_text(head + MULTIDB % {"id": path.name.partition("_")[0]})
    if twins.ours.path:
        more = [sqlite_database(tmp_path / f"{whose}-2.sqlite") for whose in ("ours", "theirs")]
    else:
        server: Server = request.getfixturevalue(f"{twins.ours.dialect}_server")
        more = [server.new_database() for _ in range(2)]
    stock = project.ini.read_text()
    ended = []
    for number, run in enumerate((lambda: twins.run_job(cwd=project.path), lambda: twins.plain_as_it_is(project))):
        text = stock
        for name, database in (("", (twins.ours, twins.theirs)[number]), ("2", more[number])):
            text = text.replace(f"driver://user:pass@localhost/dbname{name}\n", f"{database.url}\n")
        project.ini.write_text(text)
        ended.append(run())
    result, failed = ended
    assert (result.exit_code, result.finished["outcome"], failed) == (0, "upgraded", ""), result.stdout
    for name in ("environment_connected", "plan_ready", "lock_acquired", "lock_released"):
        assert sorted(event["section"] for event in result.of(name)) == ["engine1", "engine2"]
    twins.hold_the_same()
    second = Twins(more[0], more[1], twins.run_job)
    second.hold_the_same()
    assert twins.ours.tables() == {"alembic_version", "r1_one", "r2_one", "r3_one"}
    assert second.ours.tables() == {"alembic_version", "r1_two", "r2_two", "r3_two"}
