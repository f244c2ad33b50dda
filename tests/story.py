"""The story of a run in the test's own process, without the screen: fast enough for hundreds of situations."""

from __future__ import annotations

import mmap
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from runner import flow, settings
from runner.errors import ExitCode, Interrupted, RunnerError
from runner.events import Event, RevisionFailed, RevisionStarted, TransactionCommitted, TransactionRolledBack
from runner.job import Job
from runner.stopping import Stop
from runner.worker import Channel
from tests.databases import Database
from tests.job import Project

E = TypeVar("E", bound=Event)


@dataclass
class Story:
    """What an ``upgrade`` said, and how it ended. It is the ``Channel`` of its own run."""

    events: list[Event] = field(default_factory=list)
    sent: bool = False
    rows: tuple[str, ...] = ()
    error: BaseException | None = None

    def emit(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)
        if isinstance(event, RevisionStarted):
            self.sent = False

    def add_secret(self, secret: str) -> None:
        """Nothing is shown, so nothing is hidden."""

    def output(self, level: str, logger: str, text: str) -> None:
        """Nothing is shown."""

    def saw(self, section: str | None, rows: tuple[str, ...]) -> None:
        """Remember the version rows that the last line would tell."""
        self.rows = rows

    def statement_sent(self, *, recorded: bool = False) -> None:
        """Remember what the screen would assume if this process died now."""
        self.sent = True

    def of(self, kind: type[E]) -> list[E]:
        """Return all events of that kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def exit_code(self) -> int:
        """What the process would exit with."""
        if self.error is None:
            return 0
        known = isinstance(self.error, (RunnerError, Interrupted))
        return int(cast(RunnerError, self.error).exit_code) if known else int(ExitCode.INTERNAL)

    @property
    def started(self) -> list[str]:
        """The revisions that were begun."""
        return [event.revision for event in self.of(RevisionStarted)]

    @property
    def applied(self) -> list[str]:
        """What ``run_finished`` lists: the screen counts it from the same events."""
        return [revision for event in self.of(TransactionCommitted) for revision in event.revisions]

    @property
    def rolled_back(self) -> list[str]:
        """The revisions that are said to be undone as a whole."""
        return [revision for event in self.of(TransactionRolledBack) for revision in event.revisions]

    @property
    def failed(self) -> list[RevisionFailed]:
        """The events of the revisions that failed."""
        return self.of(RevisionFailed)

    def __str__(self) -> str:
        """For a failed assertion: everything."""
        return "\n".join([*map(repr, self.events), f"exit {self.exit_code}: {self.error!r}"])


def upgrade(project: Project, database: Database, *targets: str, **environment: str) -> Story:
    """Run ``upgrade`` in this process; ``environment`` is without the prefix."""
    story = Story()
    known = {
        "CONFIG": str(project.ini),
        "DATABASE_URL": database.url,
        "LOG_SQL": "full",
        "CONNECT_TIMEOUT": "2s",
        "DDL_RETRY_FOR": "0s",
        **environment,
    }
    loaded = settings.load({f"ALEMBIC_JOB_{name}": value for name, value in known.items()}, {})
    job = Job(loaded, cast(Channel, story), Stop(mmap.mmap(-1, 1)), uuid.uuid4().hex)
    before = Path.cwd()
    try:
        os.chdir(project.path)
        flow.upgrade(job, targets or ("heads",))
    except BaseException as error:  # whatever user code throws must come out as one of ours
        story.error = error
    finally:
        os.chdir(before)
    return story


def upgraded(*arguments: Any, **environment: str) -> Story:
    """Run ``upgrade``, which must work."""
    story = upgrade(*arguments, **environment)
    assert story.error is None, str(story)
    return story
