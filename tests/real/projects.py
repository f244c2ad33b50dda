"""The projects that others wrote, pinned, and how each of them ends with plain Alembic on each product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.databases import Database

ROOT = Path(__file__).parents[2]
VENVS = ROOT / ".venv-real"
RESULTS = VENVS / "results"
HERE = Path(__file__).parent
ASYNC = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mariadb": "mysql+aiomysql"}


@dataclass(frozen=True)
class Works:
    """Plain Alembic gets to the end. ``tables`` are those that are then there, the version table among them."""

    tables: int


@dataclass(frozen=True)
class Fails:
    """A revision fails half-way with plain Alembic, too. ``version`` is the row that is left, if any.

    ``code`` is the server's; ``cause`` is in its message, ``statement`` in the SQL that it refused.
    """

    tables: int
    version: str | None
    revision: str
    code: str
    cause: str
    statement: str


@dataclass(frozen=True)
class Refused:
    """``env.py`` goes to another database than the one that it is told, so nothing is run.

    ``elsewhere`` is the SQLite file, below ``site-packages``.
    """

    elsewhere: str


Cell = Works | Fails | Refused


@dataclass(frozen=True)
class Project:
    """One project. ``config`` and ``scripts`` are below its ``site-packages``.

    ``environment`` is how it is told its database; ``{url}`` and ``{async_url}`` are filled in.
    ``before`` is Python that is run there first, with the URL as its argument.
    ``plain`` is Python that does what ``alembic upgrade heads`` does, where that takes more than a URL.
    """

    name: str
    requires: tuple[str, ...]
    special: str
    cells: Mapping[str, Cell]
    part: str = ""  # of the project, where it has several databases
    config: str = ""
    scripts: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: {"ALEMBIC_JOB_DATABASE_URL": "{url}"})
    version_table: str = "alembic_version"
    before: str | None = None
    plain: str | None = None
    command: tuple[str, ...] = ()  # of the project's own, in place of plain Alembic
    folder: Path | None = None  # of an application of ours, copied to run in, for which the project makes the rest
    dependencies: bool = True  # of the first of ``requires``

    @property
    def venv(self) -> Path:
        """Its own virtual environment, with the program in it."""
        return VENVS / self.requires[0].partition("==")[0]

    def path(self, below: str) -> str:
        """Where a file of the project is installed."""
        (found,) = self.venv.glob(f"lib/python3*/site-packages/{below}")
        return str(found)

    def told(self, database: Database) -> dict[str, str]:
        """The variables that name the database."""
        async_url = f"{ASYNC[database.dialect]}://{database.url.partition('://')[2]}"
        return {name: text.format(url=database.url, async_url=async_url) for name, text in self.environment.items()}


def everywhere(cell: Cell) -> dict[str, Cell]:
    return dict.fromkeys(("sqlite", "mariadb", "postgresql"), cell)


_MLFLOW = (
    # Without its dependencies: there is no mlflow-skinny of that version on PyPI, and its migrations need none of
    # pandas, scikit-learn and so on. The next are what they import.
    "mlflow==3.18.0",
    "aiohttp",
    "cachetools",
    "click",
    "databricks-sdk",
    "fastapi",
    "flask",
    "flask-cors",
    "flask-wtf",
    "importlib_metadata",
    "numpy",
    "opentelemetry-proto",
    "opentelemetry-sdk",
    "packaging",
    "protobuf",
    "pyyaml",
    "requests",
    "sqlparse",
)

PROJECTS = (
    Project(
        "optuna",
        ("optuna==5.0.0",),
        "batch mode",
        {
            "sqlite": Works(12),
            "mariadb": Fails(
                tables=12,
                version="v1.3.0.a",
                revision="v2.4.0.a",
                code="1072",
                cause="Key column 'step'",
                statement="ALTER TABLE trial_values DROP COLUMN step",
            ),
            "postgresql": Works(12),
        },
        config="optuna/storages/_rdb/alembic.ini",
        scripts="optuna/storages/_rdb/alembic",
    ),
    Project(
        "heat",
        ("openstack-heat==27.0.1",),
        "`fileConfig`",
        everywhere(Works(17)),
        config="heat/db/alembic.ini",
    ),
    Project(
        "masakari",
        ("masakari==22.0.0",),
        "`masakari_alembic_version`",
        everywhere(Works(5)),
        config="masakari/db/sqlalchemy/alembic.ini",
        version_table="masakari_alembic_version",
    ),
    Project(
        "glance",
        ("glance==33.0.0",),
        "two heads, 13 times `depends_on`, one version row; the URL is in settings of its own, which a `CONTEXT` reads",
        everywhere(Works(16)),
        config="glance/db/sqlalchemy/alembic_migrations/alembic.ini",
        environment={"OS_DATABASE__CONNECTION": "{url}", "ALEMBIC_JOB_CONTEXT": "in_glance:configured"},
        plain="""
            import in_glance
            with in_glance.configured():
                upgrade()
        """,
    ),
    Project(
        "mlflow store",
        _MLFLOW,
        "after the project's own `create_all`; no logging of Alembic's",
        everywhere(Works(71)),
        config="mlflow/store/db_migrations/alembic.ini",
        scripts="mlflow/store/db_migrations",
        before="""
            import sys
            import sqlalchemy
            from mlflow.store.tracking.dbmodels.initial_models import Base
            Base.metadata.create_all(sqlalchemy.create_engine(sys.argv[1]))
        """,
        part="store",
        dependencies=False,
    ),
    Project(
        "mlflow auth",
        _MLFLOW,
        "`alembic_version_auth`",
        {
            "sqlite": Works(12),
            "mariadb": Fails(
                tables=3,
                version=None,
                revision="8606fa83a998",
                code="1005",
                cause="Can't create table",
                statement="CREATE TABLE registered_model_permissions",
            ),
            "postgresql": Works(12),
        },
        config="mlflow/server/auth/db/migrations/alembic.ini",
        scripts="mlflow/server/auth/db/migrations",
        part="auth store",
        version_table="alembic_version_auth",
        dependencies=False,
    ),
    Project(
        "prefect",
        ("prefect==3.9.1",),
        "async, in a worker thread that a `CONTEXT` stands in for; `version_locations` set in `env.py`",
        {"sqlite": Works(37), "postgresql": Works(37)},
        config="prefect/server/database/alembic.ini",
        environment={
            "PREFECT_API_DATABASE_CONNECTION_URL": "{async_url}",
            "ALEMBIC_JOB_CONTEXT": "in_prefect:worker_thread",
        },
        plain="""
            import anyio
            anyio.run(anyio.to_thread.run_sync, upgrade)
        """,
    ),
    Project(
        "ironic",
        ("ironic==39.0.0",),
        "migrates an SQLite file of its own, whatever it is told",
        everywhere(Refused("ironic/ironic.sqlite")),
        config="ironic/db/sqlalchemy/alembic.ini",
    ),
    Project(
        "a Flask-Migrate app",
        ("flask-migrate==4.1.0",),
        "no `script_location`; `env.py` needs the application's context",
        everywhere(Works(3)),
        environment={"APP_DATABASE": "{url}"},
        command=("flask", "db", "upgrade"),
        folder=HERE / "flask_app",
    ),
)
