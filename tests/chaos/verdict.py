"""The invariants: what must be true of a round, from the record, the database and the runs. No side effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.errors import ExitCode
from tests.chaos.history import Found

INVARIANTS = {
    "alone": "no revision executed concurrently with another",
    "once": "none executed twice to completion",
    "agree": "version table and schema agree",
    "kept": "what a run said it applied is there, and no two runs said it",
    "told": "what is left half done is told with 42, and resolve settles it",
    "free": "no orphaned lock, no session left",
    "ended": "each process ended with a code from the table that fits, and a last line run_finished",
    "head": "with faults off, more runs reach head, or stop with the right code",
}
CODES = {int(code) for code in ExitCode}
# What a run may end with here. The others would be a wrong answer: settings, logins and histories are sound.
FITTING = {0, 10, 20, 21, 41, 42, 43, 143}
STOPS = {0, 42}  # of a run that no other changes anything about


@dataclass(frozen=True)
class Ended:
    """What became of one run."""

    name: str
    image: str
    head: int  # the number of the last revision that it holds
    code: int | None  # None: it hung
    harm: tuple[str, ...]
    applied: tuple[str, ...] | None  # of run_finished; None without one
    complaint: str | None = None

    @property
    def killed(self) -> bool:
        """Whether it owes nobody an answer."""
        return "program killed" in self.harm


@dataclass(frozen=True)
class Execution:
    """One execution of a revision, from the record."""

    token: str
    revision: str
    run: str
    ended: bool
    others: tuple[dict[str, Any], ...]

    @property
    def number(self) -> int:
        """Of the revision."""
        return int(self.revision[1:])


@dataclass
class Verdict:
    """Which invariants are broken, by name, and how; and the revisions left half done."""

    broken: dict[str, list[str]] = field(default_factory=dict)
    half_done: list[str] = field(default_factory=list)

    def breaks(self, invariant: str, how: str) -> None:
        """Note it."""
        assert invariant in INVARIANTS
        self.broken.setdefault(invariant, []).append(how)


def executions(record: Iterable[dict[str, Any]]) -> list[Execution]:
    """The record as executions, in the order of their start."""
    starts: dict[str, dict[str, Any]] = {}
    beside: dict[str, tuple[dict[str, Any], ...]] = {}
    ended = set()
    for line in record:
        token = line["token"]
        if line["what"] == "start":
            starts[token] = line
        elif line["what"] == "beside":
            beside[token] = tuple(line["others"]) if line["mine"] else ()  # without a session it does nothing
        elif line["what"] == "end":
            ended.add(token)
    return [
        Execution(token, one["revision"], one["run"], token in ended, beside.get(token, ()))
        for token, one in starts.items()
    ]


def judge(
    record: Sequence[dict[str, Any]],
    found: Found,
    runs: Sequence[Ended],
    *,
    ddl_commits: bool,
    last: Ended | None,
    goal: int,
) -> Verdict:
    """Hold a round against the invariants. ``last``: the last run with faults off, which aimed at ``goal``."""
    verdict, done = Verdict(), executions(record)
    _alone(verdict, done)
    _once(verdict, done, found)
    _agree(verdict, done, found, ddl_commits)
    _kept(verdict, found, runs)
    _told(verdict, last)
    _ended(verdict, runs, found)
    _head(verdict, found, last, goal)
    return verdict


def _alone(verdict: Verdict, done: Sequence[Execution]) -> None:
    by_token = {one.token: one for one in done}
    for one in done:
        for other in one.others:
            there, lives, does = by_token[other["token"]], other["alive"], other["session"]
            if does == "executing" or (lives and does is not None):
                how = "whose process was dead, and whose session was executing" if not lives else "which was at it"
                verdict.breaks("alone", f"{one.run} began {one.revision} beside {there.revision} of {there.run}, {how}")


def _once(verdict: Verdict, done: Sequence[Execution], found: Found) -> None:
    for number, count in found.marks.items():
        if count > 1:
            whole = [one.run for one in done if one.number == number]
            verdict.breaks("once", f"r{number} left {count} marks; it was executed by {' and '.join(whole)}")


def _agree(verdict: Verdict, done: Sequence[Execution], found: Found, ddl_commits: bool) -> None:
    if len(found.versions) > 1:
        verdict.breaks("agree", f"the version table has {len(found.versions)} rows: {', '.join(found.versions)}")
    for number, part in found.parts.items():
        applied = number <= found.at
        if part == ("whole" if applied else "none"):
            continue
        begun = any(one.number == number for one in done)
        if ddl_commits and not applied and begun and number == found.at + 1:
            verdict.half_done.append(f"r{number}")
        else:
            verdict.breaks("agree", f"r{number} is {'applied' if applied else 'pending'}, and {part} of it is there")


def _kept(verdict: Verdict, found: Found, runs: Sequence[Ended]) -> None:
    said: dict[str, str] = {}
    for run in runs:
        for revision in run.applied or ():
            if revision in said:
                verdict.breaks("kept", f"{said[revision]} and {run.name} both say that they applied {revision}")
            said[revision] = run.name
            if int(revision[1:]) > found.at:
                verdict.breaks("kept", f"{run.name} says that it applied {revision}, and the version is r{found.at}")
        if run.code == 0 and found.at < run.head:
            verdict.breaks("kept", f"{run.name} ended with 0, and the version is r{found.at}")


def _told(verdict: Verdict, last: Ended | None) -> None:
    for revision in verdict.half_done:
        if last is None or last.code != ExitCode.REVISION_UNRESOLVED:
            verdict.breaks("told", f"{revision} is half done, and the last run ended with {last and last.code}")


def _ended(verdict: Verdict, runs: Sequence[Ended], found: Found) -> None:
    for run in runs:
        if run.complaint:
            verdict.breaks("ended", f"{run.name}: {run.complaint}")
        if run.killed:
            continue
        if run.code is None:
            verdict.breaks("ended", f"{run.name} did not end")
        elif run.code not in CODES:
            verdict.breaks("ended", f"{run.name} ended with {run.code}")
        elif run.applied is None:
            verdict.breaks("ended", f"{run.name} ended with {run.code} and without run_finished")
        elif run.code not in FITTING | _also_fitting(run, verdict, found):
            verdict.breaks("ended", f"{run.name} ended with {run.code}, which does not fit what was done to it")


def _also_fitting(run: Ended, verdict: Verdict, found: Found) -> set[int]:
    codes = set()
    if "worker killed" in run.harm:
        codes.add(1)
    if run.head < found.at:
        codes.add(30)
    return codes


def _head(verdict: Verdict, found: Found, last: Ended | None, goal: int) -> None:
    code = last.code if last else None
    if not verdict.half_done and (code != 0 or found.at < goal):
        verdict.breaks("head", f"the last run ended with {code}, and the version is r{found.at}, not r{goal}")
