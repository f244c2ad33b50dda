"""The command line: ``argparse``, because start-up time is a feature."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import screen
from . import settings as env
from . import url as urls
from .errors import ConfigInvalid, ExitCode, Problem, RunnerError, SettingsInvalid
from .events import Event, ProblemFields, RunFinished, SettingListed, SettingsDoubtful, SettingsSchema
from .events import SettingsInvalid as SettingsInvalidEvent
from .job import Job, Result
from .masking import Masker
from .report import Report, Style, record_of, style_for
from .stopping import Stop
from .version import __version__
from .worker import Channel, failure

_DESCRIPTION = "Brings a database to a target Alembic revision, and says what happened in JSON lines and an exit code."
_TARGET_HELP = "revision, head, heads, rev+N, +N, branch@head; several are separated by spaces"

_AUTHORING = {
    "init": "Alembic's own: start a migrations directory",
    "revision": "Alembic's own: write a new revision file",
    "merge": "Alembic's own: write a revision file that joins several heads",
    "branches": "Alembic's own: show where the history branches",
    "show": "Alembic's own: show a revision",
}

_STDOUT = 1
_OF_THEIR_OWN = ("config", "section", "x", "target", "plan")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A mistake on the command line is reported like one in the environment."""
        raise SettingsInvalid((Problem("command line", message, f"See '{self.prog} --help'."),))


def parser() -> argparse.ArgumentParser:
    """Commands and options; each setting but the secrets has an option that says its variable."""
    common, following = _common(), _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    following.add_argument("--plan", type=_file, help=_help("plan"), metavar="FILE")
    top = _Parser(
        prog="alembic-job",
        description=_DESCRIPTION,
        parents=[common, following],
        epilog="With no command: upgrade.",
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, about: str, *options: _Parser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about, parents=options or (common,))

    def targets(to: argparse.ArgumentParser) -> None:
        to.add_argument("target", nargs="*", help=f"{_TARGET_HELP} [{env.variable('target')}]")

    targets(command("upgrade", "wait, look, lock, compare, upgrade, verify, report", common, following))
    about_wait = "until the database answers a login and holds the target; changes nothing"
    wait = command("wait", about_wait, _common(without=("timeout",)))  # which means something else there
    targets(wait)
    wait.add_argument(
        "--for", dest="wait_for", choices=("connection", "target"), default="target", help="the login alone"
    )
    wait.add_argument("--timeout", dest="target_timeout", default=argparse.SUPPRESS, help=_help("target_timeout"))
    for name, about in (
        ("status", "current, heads, pending and state"),
        ("plan", "what upgrade would do, in order"),
    ):
        looking = command(name, about)
        targets(looking)
        looking.add_argument("--exit-code", action="store_true", help="3 when revisions are pending")
    looking.add_argument("--out", type=_file, metavar="FILE", help="also as a file, for upgrade --plan")
    looking.add_argument("--sql", action="store_true", help="the SQL")
    looking.add_argument(
        "--from", dest="start", metavar="REV", help="with --sql: from this revision, without a database"
    )
    down = command("downgrade", "the same machinery, downwards")
    down.add_argument("down_to", metavar="TARGET", help="revision, -N, base")
    down.add_argument("--yes", action="store_true", help="yes, data may be lost")
    command("stamp", "set the version without running anything").add_argument("target", nargs="+", help=_TARGET_HELP)
    mark = command("baseline", "set the version of a database that has tables and none, after verifying the tables")
    mark.add_argument("revisions", nargs="*", metavar="REVISION", help=_TARGET_HELP)
    mark.add_argument("--detect", action="store_true", help="find it: run the history elsewhere, and compare")
    mark.add_argument("--yes", action="store_true", help="with --detect: set the version that was found")
    settling = command("resolve", "settle a revision that an earlier run left half done; nothing of it is run")
    settling.add_argument("settled", metavar="REVISION", help="the revision, as for stamp")
    how = settling.add_mutually_exclusive_group(required=True)
    how.add_argument("--applied", action="store_true", help="it is complete: set the version")
    how.add_argument("--rolled-back", action="store_true", help="nothing of it is left: the next run starts it anew")
    settling.add_argument("--reason", required=True, metavar="TEXT", help="why, for the ledger")
    freeing = command("unlock", "free a lock whose holder is proven to be gone; a live one is refused")
    freeing.add_argument("--yes", action="store_true", help="free a lease that has expired, though nothing proves it")
    ran = command("runs", "the ledger: who ran what, when, how long, from which image and file")
    ran.add_argument("--csv", action="store_true", help="as CSV, and nothing else on stdout")
    ran.add_argument("--limit", type=_count, metavar="N", help="the last N rows")
    command("current", "the revisions that the database is at")
    command("heads", "the revisions that no other follows")
    command("history", "all revisions, parents first")
    command("check", "what models and databases differ in, with Alembic's comparison; 4 when they do")
    examining = command("doctor", "every check, nothing changed; each finding with its cause and the remedy")
    targets(examining)
    for name, about in _AUTHORING.items():
        commands.add_parser(name, help=about, parents=[common], add_help=False, allow_abbrev=False)
    command("config", "effective settings and where each came from").add_argument(
        "--schema", action="store_true", help="the settings as JSON Schema"
    )
    return top


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def _file(text: str) -> str:
    """An empty name is most likely a variable that is not set: to ignore it would do what was not meant."""
    if text in ("", "-"):
        raise argparse.ArgumentTypeError("the name of a file is needed; stdout carries events only")
    return text


def _common(without: tuple[str, ...] = ()) -> _Parser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("-c", "--config", help=_help("config"), metavar="FILE")
    common.add_argument("-n", "--name", dest="section", help=_help("section"))
    common.add_argument("-x", action="append", dest="x", help=_help("x"), metavar="ARG")
    for field in env.FIELDS:
        if field in env.MASKED or field.startswith("db_") or field in _OF_THEIR_OWN + without:
            continue
        option = f"--{field.replace('_', '-')}"
        common.add_argument(option, dest=field, help=_help(field), metavar="VALUE")
    return common


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    ours = parser()
    options, rest = ours.parse_known_args(list(arguments))
    options.flags = argparse.Namespace()
    if options.command in _AUTHORING:
        from . import authoring  # noqa: PLC0415  imports Alembic

        options.flags = authoring.parsed(options.command, rest, ours.error)
    elif rest:
        ours.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _help(field: str) -> str:
    default = env.default_of(field)
    tail = f"; default {default}" if default else ""
    return f"{env.FIELDS[field].description}{tail} [{env.variable(field)}]".replace("%", "%%")


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit code; ``--help`` and ``--version`` exit by themselves."""
    run_id = os.urandom(8).hex()
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004  a pipe must not get the number of stdout
        pass
    os.close(descriptor)
    try:
        options = _parsed(arguments)
        given = {
            field: " ".join(map(shlex.quote, value)) if isinstance(value, list) else value
            for field, value in vars(options).items()
            if field in env.FIELDS and value
        }
        loaded = env.load(dict(os.environ), given)  # as it is now: env.py may change it
    except SettingsInvalid as error:
        return _refuse(error, run_id)
    settings = loaded.settings
    masker = Masker(values=settings.log_sql != "full")
    style = style_for(settings.log_format, settings.log_level, settings.log_fields)
    if getattr(options, "csv", False):
        style = Style("csv")
    report = Report(style, masker, run_id, _STDOUT, env.termination_log(os.environ, settings))

    def work(channel: Channel, stop: Stop) -> dict[str, Any]:
        job = Job(loaded, channel, stop, run_id)
        try:
            return _run(job, options).fields()
        except BaseException as error:
            if settings.log_level == "debug" and not isinstance(error, SystemExit):
                _show_traceback(error)
            return failure(error)

    grace_s = settings.stop_grace.total_seconds()
    return screen.run(work, report, masker, grace_s=grace_s, at_end=_stop_sidecar(settings.sidecar_quit_url, masker))


def _stop_sidecar(url: str | None, masker: Masker) -> Callable[[], Event | None]:
    """What is to be done when everything else is: no connection needs the mesh then."""
    if url is None:
        return lambda: None
    if secret := urls.secret_of(url):
        masker.add(secret)

    def stop() -> Event | None:
        from . import sidecar  # noqa: PLC0415  imports http.client

        return sidecar.stop(url)

    return stop


def _run(job: Job, options: argparse.Namespace) -> Result:
    command = options.command or "upgrade"
    targets = job.settings.target
    if command == "downgrade":
        targets = (options.down_to,)
    if command == "resolve":
        targets = (options.settled,)
    if command == "baseline":
        targets = tuple(options.revisions)
    if follows := command == "upgrade" and job.settings.plan:
        targets = ()  # of the plan
    offline = command in ("heads", "history", "config", "init", "merge", "branches", "show")
    aims = command in ("upgrade", "wait", "downgrade", "stamp", "baseline", "resolve", "status", "plan", "doctor")
    job.announce(command, targets if aims else (), connects=not offline)
    if job.loaded.doubts:
        job.emit(SettingsDoubtful(problems=_problems(job.loaded.doubts)))
    if command == "config":
        return _show_config(job, schema=options.schema)
    if command == "wait" and options.wait_for == "connection" and job.given():  # without importing Alembic
        job.wait_for(job.database, writable=False)
        return Result("ready")
    from . import authoring, baseline, doctor, drift, flow, looking, resolving  # noqa: PLC0415  they import Alembic and SQLAlchemy: 0.4 s

    known: dict[str, Callable[[], Result]] = {
        "upgrade": lambda: _follow(job) if follows else flow.upgrade(job, targets),
        "wait": lambda: (
            flow.wait_for_connection(job) if options.wait_for == "connection" else flow.wait_for_target(job, targets)
        ),
        "downgrade": lambda: flow.downgrade(job, options.down_to, sure=options.yes),
        "stamp": lambda: flow.stamp(job, targets),
        "baseline": lambda: (
            baseline.detect(job, sure=options.yes) if options.detect else baseline.baseline(job, targets)
        ),
        "resolve": lambda: resolving.resolve(job, options.settled, applied=options.applied, reason=options.reason),
        "unlock": lambda: flow.unlock(job, sure=options.yes),
        "status": lambda: looking.status(job, targets, exit_code=options.exit_code),
        "plan": lambda: (
            looking.plan_sql(job, targets, options.start)
            if options.sql
            else looking.plan(job, targets, exit_code=options.exit_code, out=options.out)
        ),
        "runs": lambda: looking.runs(job, options.limit),
        "current": lambda: looking.current(job),
        "heads": lambda: looking.heads(job),
        "history": lambda: looking.history(job),
        "check": lambda: drift.check(job),
        "doctor": lambda: doctor.examine(job, targets),
        **{name: functools.partial(authoring.run, job, name, options.flags) for name in _AUTHORING},
    }
    if command == "plan" and options.start and not options.sql:
        raise ConfigInvalid("--from belongs to --sql.", hint="Write: alembic-job plan --sql --from REV")
    if command == "plan" and options.out and options.sql:
        raise ConfigInvalid("--out is for the plan, and not for its SQL.", hint="Write: alembic-job plan --out FILE")
    if command == "baseline" and bool(targets) == options.detect:
        raise ConfigInvalid(
            "A baseline is either at the revision that is named, or at the one that --detect finds.",
            hint="Write: alembic-job baseline REVISION, or: alembic-job baseline --detect",
        )
    if command == "baseline" and options.yes and not options.detect:
        raise ConfigInvalid("--yes belongs to --detect.", hint=f"Write: alembic-job baseline {' '.join(targets)}")
    return known[command]()


def _follow(job: Job) -> Result:
    """Upgrade as it was planned. The plan stands above a target of the environment, and beside no other."""
    from . import flow, planfile  # noqa: PLC0415

    path = job.settings.plan or ""
    if job.loaded.origin.get("target", "").startswith("option"):
        raise ConfigInvalid(
            f"The target is that of the plan {path}, and {' '.join(job.settings.target)} was given beside it.",
            hint=f"Write: alembic-job upgrade --plan {shlex.quote(path)}",
        )
    planned = planfile.read(path)
    return flow.upgrade(job, planned.target, planned)


def _show_config(job: Job, *, schema: bool) -> Result:
    if schema:
        job.emit(SettingsSchema(schema=env.schema()))
        return Result("reported")
    url = _effective_url(job)
    for field in env.FIELDS:
        value = getattr(job.settings, field)
        source = job.loaded.origin.get(field, "default")
        if field == "database_url" and url:  # which may come from its parts, or the Alembic configuration
            value, source = url.value, url.source
        shown = None if value is None or value == () else env.shown(value)
        if shown is not None and field in env.MASKED:
            shown = env.masked(field, shown)
        job.emit(SettingListed(variable=env.variable(field), value=shown, source=source))
    return Result("reported")


def _effective_url(job: Job) -> env.Found | None:
    try:
        return job.given() or job.configured()
    except ConfigInvalid:
        return None


def _refuse(error: SettingsInvalid, run_id: str) -> int:
    """Settings are wrong, so there is no run: two lines, in the best format that the environment tells."""
    style, masker = style_for(*env.log_settings(os.environ)), Masker()
    report = Report(style, masker, run_id, _STDOUT, env.termination_log(os.environ))
    invalid = SettingsInvalidEvent(problems=_problems(error.problems))
    finished = RunFinished(
        outcome="failed",
        exit_code=int(error.exit_code),
        exit_name=error.exit_code.title,
        retryable=error.exit_code.retryable,
        from_=[],
        to=[],
        applied=[],
        count=0,
        duration_s=0.0,
        error=f"{error}.",
        code=None,
        revision=None,
        hint=error.hint,
    )
    report.write(record_of(invalid))
    if problem := _stop_sidecar(env.sidecar_quit_url(os.environ), masker)():
        report.write(record_of(problem))
    report.write(record_of(finished))
    return int(ExitCode.CONFIG_INVALID)


def _problems(problems: Sequence[Problem]) -> list[ProblemFields]:
    return [ProblemFields(variable=p.variable, problem=p.problem, hint=p.hint) for p in problems]


def _show_traceback(error: BaseException) -> None:
    cause = error.__cause__ if isinstance(error, RunnerError) and error.__cause__ else error
    traceback.print_exception(type(cause), cause, cause.__traceback__)  # to stderr, which is captured
