"""What has to hold before anything is run, as far as the settings and the database mind."""

from __future__ import annotations

from collections.abc import Sequence

from . import diagnosis
from .ahead import proven
from .errors import HistoryInvalid, SchemaUnmanaged
from .events import RevisionEdited, counted, listed
from .ledger import edited as edited_files
from .model import Revision
from .place import Place
from .project import Project, Turn


def require_unedited(project: Project) -> None:
    """Tell of the files that were changed after they were applied. Raises HistoryInvalid where that will not do."""
    found = [(place, *both) for place in project.places for both in edited(project, place)]
    for place, event, _ in found:
        place.emit(event)
    if found and project.job.settings.on_edited == "fail":
        raise found[0][2]


def edited(project: Project, place: Place) -> list[tuple[RevisionEdited, HistoryInvalid]]:
    """The revision files that were changed after they were applied, as events and as errors."""
    if project.job.settings.on_edited == "ignore":
        return []
    return [
        (
            RevisionEdited(
                revision=revision.revision,
                path=revision.path,
                applied=entry.ended or entry.started,
                run=entry.run_id,
                image=entry.image,
            ),
            diagnosis.edited(revision, entry.said),
        )
        for revision, entry in edited_files(place.ledger.of(place.table), _applied(project, place))
    ]


def _applied(project: Project, place: Place) -> list[Revision]:
    """The revisions of this image that the database holds, as far as is proven; parents first."""
    history, rows = project.history, place.rows
    ahead = proven(history, place.ledger.of(place.table), rows) if history.known(rows)[1] else None
    held = history.contained(ahead.floor if ahead else rows)
    return [revision for revision in project.history.all() if revision.revision in held]


def require_own_tables_kept(project: Project) -> None:
    """Raises ConfigInvalid for a pending revision that drops the tables that this program keeps."""
    for place in project.places:
        if error := diagnosis.drops_own_tables(project.pending(place)):
            raise error


def require_room(place: Place, revisions: Sequence[str]) -> None:
    """Raises ConfigInvalid when the version table has no room for one of these identifiers."""
    if place.seen is None:
        return
    name = ".".join(filter(None, (place.seen.schema, place.table.name)))
    if error := diagnosis.without_room(
        revisions, place.table, place.seen.room, place.dialect, name=name, where=place.name
    ):
        raise error


def require_managed(project: Project, turn: Turn) -> None:
    """Raises SchemaUnmanaged when tables that are there without a version would be in the way.

    Under the lock: what another run has created so far, while its version is not there yet, is no such table.
    """
    for place, held in turn.items():
        place.tables = held.session.tables()
        if error := unmanaged(project, place):
            raise error


def unmanaged(project: Project, place: Place) -> SchemaUnmanaged | None:
    """The error for tables without a version, as far as ``ON_UNMANAGED`` minds them."""
    on_unmanaged = project.job.settings.on_unmanaged
    if place.rows or not place.others or on_unmanaged == "upgrade":
        return None
    half_done = place.dialect.DDL_COMMITS and place.others != place.tables
    pending = [revision for revision in project.pending(place) if revision.revision not in place.halves]
    if error := diagnosis.unmanaged(project.history, pending, place.tables, half_done=half_done):
        return error
    if on_unmanaged == "fail":
        count, names = counted(len(place.others), "table"), listed(sorted(place.others))
        return SchemaUnmanaged(f"The database has no version, and {count}: {names}.")
    return None
