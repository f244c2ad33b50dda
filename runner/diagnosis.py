"""Why a database and an image do not fit each other: the facts behind 30, 34 and 42."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from .database import Dialect, Room
from .errors import (
    ConfigInvalid,
    Findings,
    HistoryInvalid,
    RevisionPartial,
    RevisionUnknown,
    SchemaUnmanaged,
    TargetInvalid,
)
from .events import counted, listed
from .halves import Half
from .history import History
from .ledger import fingerprint
from .model import Revision, VersionTable, is_own
from .tables import created_by, left_by

DETECT = "alembic-job baseline --detect"


def unknown_revision(history: History, missing: Sequence[str], tables: frozenset[str]) -> RevisionUnknown:
    """The error for a database at revisions that this image does not hold. ``tables`` are those in it."""
    ids = [revision.revision for revision in history.all()]
    heads = listed([head.revision for head in history.heads()], "none")
    said = f"The database is at {listed(tuple(missing))}, which is not among the {counted(len(ids))} of this image"
    said = f"{said} (head: {heads})."
    near = difflib.get_close_matches(missing[0], ids, 1, 0.8)
    if near:
        said += f" The most alike is {near[0]}."
    if compiled := _compiled(history, missing[0]):
        return RevisionUnknown(
            f"{said} {compiled} is there, so its file was here and was deleted.",
            hint="Restore the revision's file from the version control, and build the image again.",
            revision=missing[0],
        )
    ours = {table for revision in history.all() for table in created_by(revision.path).mentioned}
    there = ours & tables
    if ours and not there:
        return RevisionUnknown(
            f"{said} None of the tables that this image's revisions create is there:"
            " the version table may be another project's.",
            hint="Give this project a version table of its own (version_table= in context.configure), or correct"
            " the database URL.",
            revision=missing[0],
        )
    if ours and there == ours:
        return RevisionUnknown(
            f"{said} All tables that this image's revisions create are there: this image is older than the database,"
            " or the revision was renamed.",
            hint="Deploy the image that holds this revision.",
            revision=missing[0],
        )
    return RevisionUnknown(said, revision=missing[0])


def ahead(name: str, rows: Sequence[str], newer: str, goal: Sequence[str], *, behind: bool) -> RevisionUnknown:
    """The error for a database beyond this image, which is behind on another branch, or ``ON_AHEAD`` forbids.

    ``newer``: what is in it and not in this image, as far as the ledger tells.
    """
    at = f"{name} is at {listed(tuple(rows))}, ahead of this image"
    known = f": {newer}" if newer else ""
    if behind:
        return RevisionUnknown(
            f"{at}{known}; and behind it on another branch: it does not hold {listed(tuple(goal))}.",
            hint="Deploy the image that holds the revisions of all branches.",
        )
    return RevisionUnknown(
        f"{at}{known}; and ALEMBIC_JOB_ON_AHEAD is fail.",
        hint="Deploy the image that holds these revisions; or, if this one may run beside a newer database, set"
        " ALEMBIC_JOB_ON_AHEAD=known.",
    )


def edited(revision: Revision, applied: str) -> HistoryInvalid:
    """The error for a revision file that was changed afterwards. ``applied``: when, and by whom."""
    return HistoryInvalid(
        f"{revision.path} is not the file that was applied: {applied}.",
        hint="Restore the file, and put the change into a revision of its own; or, if it changes nothing in the"
        " database, set ALEMBIC_JOB_ON_EDITED=warn.",
        revision=revision.revision,
    )


def drops_own_tables(pending: Sequence[Revision]) -> ConfigInvalid | None:
    """The error for a revision that would drop, or rename, the tables that this program keeps."""
    for revision in pending:
        if own := sorted(filter(is_own, created_by(revision.path).gone)):
            return ConfigInvalid(
                f"Revision {revision.revision} would drop {listed(own)}, which alembic-job keeps: autogenerate of an"
                " Alembic before 1.18 takes it for a leftover.",
                hint=f"Delete the line from {revision.path}, and hide the table from autogenerate (docs/ledger.md).",
                revision=revision.revision,
            )
    return None


def contradicting_rows(history: History, rows: Sequence[str], name: str) -> TargetInvalid:
    """The error for a version table with rows that others of them contain, as after an edit by hand."""
    implied = history.implied(rows)
    kept = [row for row in rows if row not in implied]
    verb = "is contained in" if len(implied) == 1 else "are contained in"
    return TargetInvalid(
        f"The version table of {name} holds {listed(tuple(rows))}, and {listed(implied)} {verb} {listed(kept)}:"
        " no plan can start from there.",
        hint="If the database is at the later one, which is most likely, mark it so:"
        f" alembic-job stamp {' '.join(kept)}",
    )


def _compiled(history: History, revision: str) -> str | None:
    """What Python left of a revision file that is gone."""
    for directory in history.script._version_locations if hasattr(history.script, "_version_locations") else ():
        for found in sorted(Path(directory, "__pycache__").glob(f"{revision}*.pyc")):
            return found.name
    return None


def without_room(
    revisions: Sequence[str], table: VersionTable, room: Room, dialect: Dialect, *, name: str, where: str
) -> ConfigInvalid | None:
    """The error for identifiers that the version table has no room for; the server would refuse them half-way.

    ``name``: of the table, as ``env.py`` says it.
    """
    long = [revision for revision in revisions if room.length and len(revision) > room.length]
    if not long:
        return None
    longest = max(map(len, long))
    length = next((size for size in (64, 128, 255) if size >= longest), longest)
    also = f", and so {'is' if len(long) == 2 else 'are'} {listed(long[1:])}" if long[1:] else ""  # noqa: PLR2004
    has = "has" if room.there else "will have"
    widen = dialect.widened(table, length)
    command = (
        f"Make room: {widen};"
        if room.there
        else f"Create it with more room before the first run: CREATE TABLE {name} (version_num VARCHAR({length})"
        f" NOT NULL, CONSTRAINT {table.name}_pkc PRIMARY KEY (version_num));"
    )
    return ConfigInvalid(
        f"The identifier {long[0]} is {len(long[0])} characters long{also}, and the column version_num of"
        f" {name} in {where} {has} room for {room.length}.",
        hint=f"{command} or give the revision a shorter one, in its file and in those that follow it.",
        revision=long[0],
    )


def clash(pending: Sequence[Revision], tables: frozenset[str]) -> dict[str, list[str]]:
    """Which pending revisions would create which tables that are there already."""
    found: dict[str, list[str]] = {}
    gone: set[str] = set()
    for revision in pending:
        does = created_by(revision.path)
        gone |= does.gone
        if there := [table for table in does.certain if table in tables and table not in gone]:
            found[revision.revision] = there
    return found


def unmanaged(
    history: History, pending: Sequence[Revision], tables: frozenset[str], *, half_done: bool
) -> SchemaUnmanaged | None:
    """The error for a database with tables and without a version, when a pending revision would create one of them.

    ``half_done``: there is an empty version table, and statements of a failed run would have stayed.
    """
    found = clash(pending, tables)
    if not found:
        return None
    names = [table for there in found.values() for table in there]
    said = f"The database has no version, and {_tables(names)} there already, which {listed(list(found))} would create."
    if half_done:
        said += " Its version table is empty: a first run may have failed half-way."
    hint = _how_to_mark(history, pending, tables)
    if half_done:
        hint += " If they are what a failed run left, undo its statements instead; its output lists them."
    return SchemaUnmanaged(hint=hint, message=said, revision=next(iter(found)))


def half_done(pending: Sequence[Revision], tables: frozenset[str]) -> RevisionPartial | None:
    """The error for a database with a version, in which the next revision would create a table that is there."""
    found = clash(pending, tables)
    if not found:
        return None
    revision, names = next(iter(found.items()))
    are = "is" if len(names) == 1 else "are"
    return RevisionPartial(
        f"{listed(names)} {are} there already, which the pending {revision} would create.",
        hint="If a run failed in that revision, undo its statements, which its output lists; if somebody made the table"
        " by hand, rename it, or make the revision create it only where it is missing.",
        revision=revision,
    )


def not_resumed(history: History, half: Half, steps: Collection[str], direction: str) -> str | None:
    """Why a run with these steps cannot go on behind what was done of a revision; None when it can."""
    held, missing = history.known([half.revision])
    if missing:
        return "This image does not hold it: with the one that does, a run goes on."
    if half.direction != direction or half.revision not in steps:
        return f"This run would not {half.direction} it."
    if half.sha256 and fingerprint(held[0].path) != half.sha256:
        return f"{held[0].path} was changed since: with the file as it was, a run goes on."
    return None


def _how_to_mark(history: History, revisions: Sequence[Revision], tables: frozenset[str]) -> str:
    """What to do with tables without a version, by the last revisions up to which every table that is created is there.

    Revisions that create none cannot be told by it; and where one that follows would create a table
    that is there, it is none of them.
    """
    held: dict[str, Revision] = {}
    rest: list[Revision] = []
    makers: list[str] = []
    later = {table for revision in revisions for table in created_by(revision.path).gone}
    for revision in revisions:
        made = [table for table in created_by(revision.path).mentioned if table not in later]
        follows = all(parent in held for parent in history.follows(revision.revision))
        if follows and all(table in tables for table in made):
            held[revision.revision] = revision
            makers += [revision.revision] if made or (makers and created_by(revision.path).idle) else []
        else:
            rest.append(revision)
    if not makers or clash(rest, tables):
        return f"Find out which revision the tables are of: {DETECT}"
    first, last = history.without_implied(makers), history.without_implied(list(held))
    if set(first) != set(last):
        return (
            f"Find out which revision the tables are of: {DETECT}. By their names it may be any from"
            f" {listed(first)} to {listed(last)}. Then: alembic-job baseline REVISION"
        )
    return (
        f"By their names the tables are those of {listed(last)}: alembic-job baseline {' '.join(last)}. To be sure,"
        f" '{DETECT}' compares columns, keys and indexes, too."
    )


def baseline(
    history: History, goal: Sequence[str], before: Sequence[Revision], after: Sequence[Revision], tables: frozenset[str]
) -> Mapping[str, str]:
    """The tables that are there because of ``before``, which leads to ``goal``, and who made each.

    Raises Findings when one of them is missing, when one is there that ``after`` is yet to create, or
    when there is nothing to go by. ``tables`` are those in the database.
    """
    names = listed(tuple(goal))
    wanted = left_by([(revision.revision, revision.path) for revision in before])
    there = {table.lower() for table in tables}  # some servers keep names in lower case
    missing = [table for table in wanted if table.lower() not in there]
    hint = _how_to_mark(history, [*before, *after], tables)
    if missing:
        by = sorted({wanted[table] for table in missing})
        raise Findings(
            f"The database is not at {names}: {_tables(missing)} missing, which {listed(by)} made.",
            hint=hint,
            revision=by[0],
        )
    made = {table for revision in before for table in created_by(revision.path).mentioned}
    early = {
        revision: new
        for revision, names_ in clash(after, tables).items()
        if (new := [table for table in names_ if table not in made])
    }
    if early:
        new = [table for names_ in early.values() for table in names_]
        raise Findings(
            f"The database is newer than {names}: {_tables(new)} there, which {listed(list(early))} would create"
            " at the next upgrade, and fail.",
            hint=hint,
            revision=next(iter(early)),
        )
    if not wanted:
        raise Findings(
            f"Nothing can be verified: no revision up to {names} creates a table in words that can be read without"
            " running it.",
            hint=f"'{DETECT}' compares the whole schema; or, if you know it, without any check: alembic-job stamp"
            f" {' '.join(goal)}",
        )
    return wanted


def _tables(names: Sequence[str]) -> str:
    return f"{listed(list(names))} {'is' if len(names) == 1 else 'are'}"
