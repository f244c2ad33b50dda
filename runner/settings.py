"""The environment, read once and checked as a whole: the only reader of it.

A value comes from an option, the variable, its ``_FILE``, a file in the secrets directory, or the
default, in this order. The URL and its parts are read again for every new connection, so that
rotated secrets work.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from . import url as urls
from .database import DIALECTS, URL_FORM
from .errors import Problem, SettingsInvalid

PREFIX = "ALEMBIC_JOB_"
SECRETS_DIR = "/run/secrets/alembic-job"
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}
_RELATIVE = re.compile(r"(?:.*[@:])?[+-]\d+$")
# A Service called "alembic-job" makes Kubernetes set these in every pod of the namespace.
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_(HOST|PORT)|PORT)(_|$)")


def duration(value: Any) -> timedelta:
    """``500ms``, ``30s``, ``5m``, ``1h``, or seconds."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*", str(value))
    if not match:
        raise ValueError(f"'{value}' is no duration: write 500ms, 30s, 5m, 1h, or seconds")
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise ValueError(f"'{value}' is too long") from None


def _words(value: Any) -> Any:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _web(value: str) -> str:
    """A URL to call. What is wrong with it is said without it, since it may hold a password."""
    value = value.strip()
    with suppress(ValueError):
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if known and re.fullmatch(r"[!-~]+", value):
            return value
    raise ValueError("it is no URL such as http://127.0.0.1:15020/quitquitquit, in ASCII and percent-encoded")


Duration = Annotated[timedelta, BeforeValidator(duration), WithJsonSchema({"type": "string"})]
Words = Annotated[tuple[str, ...], BeforeValidator(_words), WithJsonSchema({"type": "string"})]
Web = Annotated[str, AfterValidator(_web)]


class Settings(BaseSettings):
    """Every setting of the program; the docs' table is held equal to this class by a test."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    database_url: str | None = Field(None, description="SQLAlchemy URL of the database")
    db_driver: str | None = Field(None, description="dialect, or dialect+driver, of the URL by parts")
    db_host: str | None = Field(None, description="host of the URL by parts")
    db_port: int | None = Field(None, description="port of the URL by parts", ge=1, le=65535)
    db_user: str | None = Field(None, description="user of the URL by parts")
    db_password: str | None = Field(None, description="password of the URL by parts, as it is, not encoded")
    db_name: str | None = Field(None, description="database of the URL by parts")
    db_options: str | None = Field(None, description="query of the URL by parts: key=value&key=value")
    scratch_url: str | None = Field(
        None, description="SQLAlchemy URL of an empty database that baseline --detect may fill"
    )
    config: str | None = Field(None, description="Alembic configuration file")
    section: str = Field("alembic", description="section of the configuration, as alembic -n")
    script_location: str | None = Field(None, description="overrides the configuration; then no file is needed")
    x: Words = Field((), description="arguments for env.py, as alembic -x")
    context: str | None = Field(
        None,
        description="package.module:callable, a context manager in which env.py runs",
        pattern=r"^[\w.]+:[\w.]+$",
    )
    inject_connection: Literal["no", "connection", "engine"] = Field(
        "no", description='puts it into config.attributes["connection"] for an env.py that demands it'
    )
    target: Words = Field(("heads",), description="revisions to go to, separated by spaces", min_length=1)
    plan: str | None = Field(None, description="upgrade: a file of plan --out, which is followed or refused")
    wait_timeout: Duration = Field(
        timedelta(seconds=120), description="how long the database may take to answer a login"
    )
    retry_refused_for: Duration = Field(timedelta(0), description="how long a refused login is retried all the same")
    connect_timeout: Duration = Field(timedelta(seconds=5), description="one attempt to connect", gt=timedelta(0))
    target_timeout: Duration = Field(timedelta(minutes=15), description="wait: how long until the target is there")
    lock_database_url: str | None = Field(None, description="a direct connection for the lock, beside a pooler")
    lock: Literal["auto", "advisory", "lease", "none"] = Field("auto", description="how runs exclude each other")
    lock_timeout: Duration = Field(timedelta(minutes=15), description="how long to wait for another run")
    ddl_lock_timeout: Duration = Field(
        timedelta(seconds=5),
        description="how long one statement may queue for a table lock before it gives way",
        gt=timedelta(0),
    )
    ddl_retry_for: Duration = Field(
        timedelta(minutes=5), description="how long a revision that gave way, and left nothing, is tried again"
    )
    statement_timeout: Duration | None = Field(
        None, description="how long one statement may take; then it is cancelled on the server", gt=timedelta(0)
    )
    timeout: Duration | None = Field(None, description="how long applying may take as a whole", gt=timedelta(0))
    stop_grace: Duration = Field(
        timedelta(seconds=8), description="from SIGTERM until the running statement is cancelled on the server"
    )
    transaction: Literal["env", "per-revision"] = Field(
        "env", description="env: as env.py says; per-revision: a transaction for each"
    )
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else json")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug adds every statement")
    log_fields: Literal["default", "gcp", "ecs", "datadog"] = Field(
        "default", description="field names of the log platform"
    )
    log_sql: Literal["masked", "full", "off"] = Field("masked", description="literals in SQL and row values in errors")
    on_unmanaged: Literal["check", "upgrade", "fail"] = Field(
        "check",
        description="tables but no version: refuse what would create one that exists; go on; or refuse",
    )
    on_ahead: Literal["known", "fail", "ok"] = Field(
        "known",
        description="the database is past this image: fine where the ledger proves that it holds the target; refuse;"
        " or fine without proof",
    )
    on_edited: Literal["warn", "fail", "ignore"] = Field(
        "warn", description="a revision file changed after it was applied: warn, refuse, or say nothing"
    )
    resume: Literal["auto", "off"] = Field(
        "auto",
        description="go on at the statement where an earlier run stopped, when that is proven safe; off: leave it to a"
        " person",
    )
    ledger: bool = Field(True, description="keep a table of what was run; false: no tables of our own")
    heartbeat: Duration = Field(
        timedelta(seconds=15), description="how often a long wait or statement reports", gt=timedelta(0)
    )
    termination_log: str | None = Field(None, description="file for the termination message")
    image: str | None = Field(None, description="image reference, for events")
    sidecar_quit_url: Web | None = Field(
        None, description="http(s) URL that is POSTed to when the run is over, for a sidecar that would not end"
    )
    secrets_dir: str | None = Field(None, description="directory with a file per setting")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load`` hands over: it knows where each value came from."""
        return (init_settings,)


FIELDS: Mapping[str, FieldInfo] = Settings.model_fields
SECRET = {"database_url", "db_password", "lock_database_url", "scratch_url"}
MASKED = {*SECRET, "sidecar_quit_url"}  # shown in part, and given by no option
WITH_FILE = {"database_url", "db_user", "db_password", "lock_database_url", "scratch_url"}
OTHER_URLS = ("lock_database_url", "scratch_url")
_PARTS = ("db_driver", "db_host", "db_port", "db_user", "db_password", "db_name", "db_options")
_NEEDED_PARTS = {
    "db_driver": "Write for example mysql+pymysql, postgresql+psycopg or sqlite.",
    "db_name": "Write the name of the database; for SQLite, the path of its file.",
}


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


@dataclass(frozen=True)
class Found:
    """A value and where it came from."""

    value: str
    source: str


@dataclass(frozen=True)
class Sources:
    """Where values come from, asked again whenever one is needed."""

    environ: Mapping[str, str]
    options: Mapping[str, str]
    secrets_dir: Path | None

    def find(self, field: str) -> Found | None:
        """The first source that has this field. Raises OSError for an unreadable file."""
        name = variable(field)
        if self.options.get(field) is not None:
            return Found(self.options[field], f"option --{field.replace('_', '-')}")
        if self.environ.get(name):
            return Found(self.environ[name], "environment")
        if field in WITH_FILE and (path := self.environ.get(f"{name}_FILE")):
            return Found(_read(Path(path)), f"{name}_FILE")
        if self.secrets_dir and field != "secrets_dir":
            for candidate in (field.upper(), field, name):
                if (file := self.secrets_dir / candidate).is_file():
                    return Found(_read(file), str(file))
        return None

    def url(self) -> Found | None:
        """The database URL as it is now, whole or put together from its parts."""
        if found := self.find("database_url"):
            return found
        parts = {field: found for field in _PARTS if (found := self.find(field))}
        if parts:
            value = {field: found.value for field, found in parts.items()}
            url = urls.URL(
                driver=value.get("db_driver", ""),
                user=value.get("db_user"),
                password=value.get("db_password"),
                host=value.get("db_host"),
                port=int(value["db_port"]) if "db_port" in value else None,
                database=value.get("db_name"),
            )
            options = value.get("db_options", "").lstrip("?")
            return Found(url.render() + (f"?{options}" if options else ""), f"{PREFIX}DB_*")
        plain = self.environ.get("DATABASE_URL")
        return Found(plain, "DATABASE_URL") if plain else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeError as error:
        raise OSError(errno.EILSEQ, "it is not UTF-8", str(path)) from error


@dataclass(frozen=True)
class Loaded:
    """The settings with everything else that the environment tells."""

    settings: Settings
    sources: Sources
    doubts: tuple[Problem, ...]
    origin: Mapping[str, str]
    pod: str | None
    node: str | None

    def url(self) -> Found | None:
        """The URL of the settings as it is now; None when they have none."""
        try:
            return self.sources.url()
        except OSError as error:
            raise SettingsInvalid((_unreadable("database_url", error),)) from error

    def other_url(self, field: str) -> Found | None:
        """One of the other URLs as it is now; None when there is none."""
        try:
            return self.sources.find(field)
        except OSError as error:
            raise SettingsInvalid((_unreadable(field, error),)) from error


def _sources(environ: Mapping[str, str], options: Mapping[str, str]) -> Sources:
    directory = options.get("secrets_dir") or environ.get(variable("secrets_dir"))
    secrets_dir = Path(directory or SECRETS_DIR)
    return Sources(environ, options, secrets_dir if directory or secrets_dir.is_dir() else None)


def load(environ: Mapping[str, str], options: Mapping[str, str]) -> Loaded:
    """Read and check all settings. Raises SettingsInvalid with every mistake at once."""
    sources = _sources(environ, options)
    problems = list(_directory_problems(sources.secrets_dir) if sources.secrets_dir else ())
    values: dict[str, str] = {}
    origin: dict[str, str] = {}
    for field in FIELDS:
        try:
            found = sources.find(field)
        except OSError as error:
            problems.append(_unreadable(field, error))
            continue
        if found:
            values[field], origin[field] = found.value, found.source
    settings, invalid = _checked(values)
    problems += invalid
    problems += _url_problems(sources, values, {p.variable for p in problems})
    problems += [
        Problem(variable(field), *said)
        for field in OTHER_URLS
        if field in values and (said := url_problem(values[field]))
    ]
    if origin.get("target") and not origin["target"].startswith("option"):
        problems += [
            Problem(
                variable("target"),
                f"'{target}' is relative, and a retry would repeat it",
                "Name a revision, or give the relative target as an argument.",
            )
            for target in settings.target
            if _RELATIVE.match(target)
        ]
    if problems:
        raise SettingsInvalid(tuple(problems))
    pod = "/".join(filter(None, (environ.get("POD_NAMESPACE"), environ.get("POD_NAME")))) or None
    return Loaded(settings, sources, tuple(_unknown(environ)), origin, pod, environ.get("NODE_NAME"))


def _checked(values: Mapping[str, str]) -> tuple[Settings, list[Problem]]:
    """The settings as far as they are valid, and what is wrong with the others."""
    texts: dict[str, Any] = dict(values)  # which pydantic turns into the types
    try:
        return Settings(**texts), []
    except ValidationError as error:
        wrong = {str(e["loc"][0]): e["msg"] for e in error.errors()}
        valid = {field: text for field, text in texts.items() if field not in wrong}
        return Settings(**valid), [_invalid(field, said) for field, said in wrong.items()]


def _unreadable(field: str, error: OSError) -> Problem:
    name = variable(field) + ("_FILE" if field in WITH_FILE else "")
    said = f"{error.filename} cannot be read: {error.strerror}"
    return Problem(name, said, "Check that the secret and its key are there, and that the file is readable.")


def _directory_problems(path: Path) -> tuple[Problem, ...]:
    if path.is_dir():
        return ()
    return (Problem(variable("secrets_dir"), f"{path} is no directory", "Mount the secret there."),)


def _invalid(field: str, said: str) -> Problem:
    hint = f"Correct or remove it ({FIELDS[field].description}; default: {default_of(field) or 'none'})."
    return Problem(variable(field), said.removeprefix("Value error, "), hint)


def _url_problems(sources: Sources, values: Mapping[str, str], known: set[str]) -> list[Problem]:
    """What is wrong with the URL or with its parts together; ``known`` are the variables found wrong already."""
    whole = "database_url" in values
    parts = [field for field in _PARTS if field in values]
    beside = ", ".join(map(variable, parts))
    missing = [
        Problem(variable(field), f"missing beside {beside}", hint)
        for field, hint in _NEEDED_PARTS.items()
        if field not in values
    ]
    if parts and not whole and missing:
        return missing
    hint = "Give the URL or its parts, not both."
    both = [Problem(variable("database_url"), f"given together with {beside}", hint)] if parts and whole else []
    asked = ("database_url",) if whole else ("database_url", *_PARTS)
    if known & {variable(field) + end for field in asked for end in ("", "_FILE")}:
        return both
    found = sources.url()
    said = url_problem(found.value) if found else None
    if not found or not said:
        return both
    return [*both, Problem(variable("database_url") if whole else found.source, *said)]


def url_problem(text: str) -> tuple[str, str] | None:
    """What is wrong with a database URL, and what to write; None when nothing is."""
    try:
        url = urls.parse(text)
    except urls.MalformedURL as error:
        return f"the URL cannot be read: {error}", URL_FORM
    if url.dialect not in DIALECTS:
        near = "postgresql" if url.dialect == "postgres" else ", ".join(DIALECTS)
        return f"'{url.dialect}' databases are not supported", f"Write {near} before the '://'."
    if "@" in (url.host or ""):
        return "the URL has more than one '@'", "In user and password, write %40 for '@'."
    return DIALECTS[url.dialect].url_problem(url)


def _unknown(environ: Mapping[str, str]) -> list[Problem]:
    names = {variable(f) for f in FIELDS} | {variable(f) + "_FILE" for f in WITH_FILE}
    unknown = [n for n in environ if n.startswith(PREFIX) and n not in names and not _SERVICE_LINK.match(n)]
    return [Problem(n, "unknown variable, ignored", _meant(n, names)) for n in sorted(unknown)]


def _meant(unknown: str, names: set[str]) -> str:
    own = [name.removeprefix(PREFIX) for name in names]  # the prefix would make all of them look alike
    near = difflib.get_close_matches(unknown.removeprefix(PREFIX), own, 1)
    return f"Did you mean {PREFIX}{near[0]}?" if near else "'alembic-job config' lists all of them."


def default_of(field: str) -> str | None:
    """The default as one would write it in the variable."""
    value = FIELDS[field].default
    return None if value is None or value == () else shown(value)


def shown(value: Any) -> str:
    """A value as one would write it in the variable."""
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        for unit, size in (("h", 3600), ("m", 60)):
            if (seconds >= 3 * size and seconds % size == 0) or seconds == size:
                return f"{seconds / size:g}{unit}"
        return f"{seconds:g}s"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(value) if isinstance(value, tuple) else str(value)


def masked(field: str, value: str) -> str:
    """A secret as ``config`` shows it."""
    if field == "sidecar_quit_url":
        return urls.without_login(value)
    if not field.endswith("_url"):
        return "***"
    try:
        return urls.parse(value).masked()
    except urls.MalformedURL:
        return "***"


def schema() -> dict[str, Any]:
    """The settings as JSON Schema, by variable."""
    own = Settings.model_json_schema()["properties"]
    properties = {}
    for field, info in FIELDS.items():
        kind = own[field].get("type") or next(
            (k["type"] for k in own[field].get("anyOf", ()) if k["type"] != "null"), "string"
        )
        about = {
            "type": kind,
            "description": info.description,
            "default": default_of(field),
            "enum": own[field].get("enum"),
        }
        properties[variable(field)] = {key: value for key, value in about.items() if value is not None}
        if field in WITH_FILE:
            properties[variable(field) + "_FILE"] = {
                "type": "string",
                "description": f"file that holds {variable(field)}",
            }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Environment of alembic-job",
        "type": "object",
        "properties": properties,
    }


def termination_log(environ: Mapping[str, str], settings: Settings | None = None) -> Path | None:
    """Where the termination message goes: as set, else where Kubernetes mounts it, if anywhere."""
    named = settings.termination_log if settings else environ.get(variable("termination_log"))
    if named:
        return Path(named)
    default = Path("/dev/termination-log")
    return default if default.is_file() and os.access(default, os.W_OK) else None


def sidecar_quit_url(environ: Mapping[str, str]) -> str | None:
    """Whom to tell that the run is over, though other settings are wrong; None where that is wrong, too."""
    with suppress(OSError, ValueError):
        if found := _sources(environ, {}).find("sidecar_quit_url"):
            return _web(found.value)
    return None


def log_settings(environ: Mapping[str, str]) -> tuple[str, str, str]:
    """Format, level and field names, as far as they are valid: for the report that settings are not."""
    fields = environ.get(variable("log_fields"), "default")
    valid = fields in ("default", "gcp", "ecs", "datadog")
    return environ.get(variable("log_format"), "auto"), "info", fields if valid else "default"
