"""What can go wrong: one class per exit code, each with what to do about it.

Raised where the cause is known, caught once, in ``flow.run``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """The exit codes of the contract. The tens tell the stage."""

    OK = 0
    INTERNAL = 1
    CONFIG_INVALID = 2
    PENDING = 3
    DRIFT = 4
    DATABASE_UNREACHABLE = 10
    LOGIN_REFUSED = 11
    DATABASE_MISSING = 12
    PERMISSION_DENIED = 13
    DATABASE_READ_ONLY = 14
    LOCK_TIMEOUT = 20
    LOCK_LOST = 21
    TARGET_TIMEOUT = 22
    REVISION_UNKNOWN = 30
    MULTIPLE_HEADS = 31
    TARGET_INVALID = 32
    HISTORY_INVALID = 33
    SCHEMA_UNMANAGED = 34
    WRONG_DATABASE = 35
    PLAN_STALE = 36
    FINDINGS = 37
    REVISION_FAILED = 40
    REVISION_PARTIAL = 41
    REVISION_UNRESOLVED = 42
    REVISION_DEFERRED = 43
    DEADLINE_EXCEEDED = 44
    TARGET_NOT_REACHED = 45
    INTERRUPTED_INT = 130
    INTERRUPTED_TERM = 143

    @property
    def title(self) -> str:
        """The name that ``exit_name`` carries."""
        return "interrupted" if self in _INTERRUPTED else self.name.lower()

    @property
    def retryable(self) -> bool:
        """Whether running again, with nothing changed by a person, may succeed."""
        return self in _RETRYABLE


_INTERRUPTED = {ExitCode.INTERRUPTED_INT, ExitCode.INTERRUPTED_TERM}
_RETRYABLE = _INTERRUPTED | {
    ExitCode.INTERNAL,
    ExitCode.DATABASE_UNREACHABLE,
    ExitCode.DATABASE_READ_ONLY,
    ExitCode.LOCK_TIMEOUT,
    ExitCode.LOCK_LOST,
    ExitCode.TARGET_TIMEOUT,
    ExitCode.REVISION_DEFERRED,
}


@dataclass(frozen=True)
class Problem:
    """One invalid or doubtful setting, and what to write instead."""

    variable: str
    problem: str
    hint: str


class RunnerError(Exception):
    """What happened, in one sentence with the facts; ``hint`` says what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    hint: str = "This is a bug in alembic-job. Please report it with the output at ALEMBIC_JOB_LOG_LEVEL=debug."

    def __init__(
        self, message: str, *, hint: str | None = None, code: str | None = None, revision: str | None = None
    ) -> None:
        super().__init__(message)
        self.hint = hint or self.hint
        self.code = code
        self.revision = revision


class ConfigInvalid(RunnerError):
    """Settings, the Alembic configuration, ``env.py`` or a revision file cannot be used."""

    exit_code = ExitCode.CONFIG_INVALID
    hint = "Correct the configuration. 'alembic-job config' shows the effective settings."


class SettingsInvalid(ConfigInvalid):
    """All invalid settings at once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(
            "; ".join(f"{p.variable}: {p.problem}" for p in problems), hint=" ".join(p.hint for p in problems)
        )
        self.problems = problems


class DatabaseUnreachable(RunnerError):
    """No answer within the wait, or the connection was lost with nothing in flight."""

    exit_code = ExitCode.DATABASE_UNREACHABLE
    hint = "Check that the server is up and has room, and host and port; ALEMBIC_JOB_WAIT_TIMEOUT is how long to wait."


class LoginRefused(RunnerError):
    """The server answered, and refused user or password."""

    exit_code = ExitCode.LOGIN_REFUSED
    hint = (
        "Check user and password of the database URL. For a server that is just being initialised, set"
        " ALEMBIC_JOB_RETRY_REFUSED_FOR=60s."
    )


class DatabaseMissing(RunnerError):
    """The server has no database of that name."""

    exit_code = ExitCode.DATABASE_MISSING
    hint = (
        "Create the database, or correct its name in the URL. For a server that is just being initialised, set"
        " ALEMBIC_JOB_RETRY_REFUSED_FOR=60s."
    )


class PermissionDenied(RunnerError):
    """Logged in, but not allowed; or host or TLS refused."""

    exit_code = ExitCode.PERMISSION_DENIED
    hint = "Grant the migrating user what the message names, or correct the user or the database in the URL."


class DatabaseReadOnly(RunnerError):
    """A replica, a failover, or a server in recovery."""

    exit_code = ExitCode.DATABASE_READ_ONLY
    hint = "Point the database URL at the primary, or run again when the failover is over."


class LockTimeout(RunnerError):
    """Another run held the lock for the whole of the allowed wait."""

    exit_code = ExitCode.LOCK_TIMEOUT
    hint = "Wait for the other run to finish, or raise ALEMBIC_JOB_LOCK_TIMEOUT."


class LockLost(RunnerError):
    """The lock went away while this run migrated; nothing was started after that."""

    exit_code = ExitCode.LOCK_LOST
    hint = "Run again; if it comes back, look for what ends idle connections: a failover, a proxy, an administrator."


class TargetTimeout(RunnerError):
    """``wait``: connected, but the target did not arrive in time."""

    exit_code = ExitCode.TARGET_TIMEOUT
    hint = "Check the job that migrates, or raise ALEMBIC_JOB_TARGET_TIMEOUT."


class RevisionUnknown(RunnerError):
    """The database is at a revision that this image does not hold."""

    exit_code = ExitCode.REVISION_UNKNOWN
    hint = "Deploy the image that holds this revision; or restore its file if it was deleted."


class MultipleHeads(RunnerError):
    """``head`` names more than one revision."""

    exit_code = ExitCode.MULTIPLE_HEADS
    hint = "Use the target 'heads' to go to all of them, or join them: alembic-job merge -m merge heads."


class TargetInvalid(RunnerError):
    """The target is not found, ambiguous or unreachable; or a downgrade without ``--yes``."""

    exit_code = ExitCode.TARGET_INVALID
    hint = "'alembic-job history' lists the revisions of this image."


class HistoryInvalid(RunnerError):
    """The revision files contradict each other."""

    exit_code = ExitCode.HISTORY_INVALID
    hint = "Correct down_revision or depends_on in their files, and build the image again."


class SchemaUnmanaged(RunnerError):
    """The database has tables and no version, and pending revisions would create tables that exist."""

    exit_code = ExitCode.SCHEMA_UNMANAGED
    hint = "Mark the database with the revision that its tables are of: alembic-job baseline --detect finds it."


class WrongDatabase(RunnerError):
    """``env.py`` connected to another database than the one that was given."""

    exit_code = ExitCode.WRONG_DATABASE
    hint = "Make env.py use sqlalchemy.url, or give alembic-job the URL that env.py uses."


class PlanStale(RunnerError):
    """``upgrade --plan``: the files or the database are not those that the plan was made with."""

    exit_code = ExitCode.PLAN_STALE
    hint = "Plan again, review it, and apply that: alembic-job plan --out FILE"


class Pending(RunnerError):
    """Revisions are pending, and what was asked for needs a database that holds them all."""

    exit_code = ExitCode.PENDING
    hint = "Bring the database to the newest revision first: alembic-job upgrade."


class Drift(RunnerError):
    """``check``: the models and the database differ."""

    exit_code = ExitCode.DRIFT
    hint = "Write the revision that is missing, and review it: alembic-job revision --autogenerate -m MESSAGE."


class Findings(RunnerError):
    """``doctor`` found something; ``baseline``: the database is not what the revision makes it."""

    exit_code = ExitCode.FINDINGS
    hint = "'alembic-job doctor' looks at everything."


class RevisionFailed(RunnerError):
    """A revision failed and nothing of it remains."""

    exit_code = ExitCode.REVISION_FAILED
    hint = "Correct the revision and run again: this run left nothing of it in the database."


class RevisionPartial(RunnerError):
    """A revision failed and part of it is in the database."""

    exit_code = ExitCode.REVISION_PARTIAL
    hint = (
        "Do not simply run again: undo the statements listed as durable_statements, or make the revision"
        " skip them; then run again."
    )


class RevisionUnresolved(RunnerError):
    """An earlier run left a revision half done, and only a person can tell how to go on."""

    exit_code = ExitCode.REVISION_UNRESOLVED
    hint = "'alembic-job resolve' settles it, when the revision is complete or nothing of it is left."
    event: Any = None  # what is recorded, and what the revision sends now


class RevisionDeferred(RunnerError):
    """A revision did not get what it needed, left nothing, and may be tried again."""

    exit_code = ExitCode.REVISION_DEFERRED
    hint = "Run again when what was in its way is gone; ALEMBIC_JOB_DDL_RETRY_FOR is how long a run tries by itself."


class DeadlineExceeded(RunnerError):
    """``TIMEOUT`` was over while revisions were applied; nothing of the one in flight remains."""

    exit_code = ExitCode.DEADLINE_EXCEEDED
    hint = "Raise ALEMBIC_JOB_TIMEOUT, or split what takes so long; then run again."


class TargetNotReached(RunnerError):
    """``env.py`` ended without an error, but the database does not hold the target."""

    exit_code = ExitCode.TARGET_NOT_REACHED
    hint = "Look in env.py for a way around context.run_migrations(), or an except that hides an error."


class Interrupted(BaseException):
    """SIGTERM or SIGINT, at a safe point. Not an Exception, so that user code does not swallow it."""

    def __init__(self, signum: int, said: str | None = None) -> None:
        super().__init__(said or f"Stopped by signal {signum}.")
        self.signum = signum
        self.said = said

    @property
    def exit_code(self) -> ExitCode:
        """128 plus the signal, as shells have it."""
        return ExitCode(128 + self.signum)
