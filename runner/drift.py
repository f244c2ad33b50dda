"""Models against databases, with Alembic's own comparison: ``check``, and ``revision --autogenerate``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alembic.autogenerate.api import RevisionContext
from alembic.config import Config

from .errors import ConfigInvalid, DatabaseMissing, Drift, Pending, RunnerError
from .events import DifferenceFound, counted, listed
from .job import Job, Result
from .plugin import hiding
from .project import Project
from .seam import Reached, translated

_NO_MODELS = "does not provide a MetaData object"
_NOTHING_SAID: Mapping[str, Any] = dict.fromkeys(
    ("message", "branch_label", "version_path", "rev_id", "depends_on"), None
)


def check(job: Job) -> Result:
    """Say what models and databases differ in. Changes nothing."""
    project = Project(job)
    found: list[DifferenceFound] = []
    arguments = {**_NOTHING_SAID, "autogenerate": True, "sql": False, "head": "heads", "splice": False}
    compared(project, project.config(), arguments, found)
    if found:
        first = listed([" ".join(filter(None, (one.operation, one.table, one.object))) for one in found])
        raise Drift(f"Models and database differ in {counted(len(found), 'place')}: {first}.")
    return Result("up_to_date")


def compared(
    project: Project,
    config: Config,
    arguments: Mapping[str, Any],
    found: list[DifferenceFound],
    *,
    creates: bool = False,
) -> RevisionContext:
    """Run Alembic's comparison through ``env.py``; the differences go into ``found``, and come as events.

    Alembic compares with the newest models only. Raises Pending where a database is behind.
    ``creates``: a SQLite file that does not exist may be created.
    """
    project.wait_and_look(("heads",), creates=creates)
    for place in project.places:
        project.require_sound(place)
        steps = project.history.upgrade_steps(project.history.resolve(("heads",), place.rows), place.rows)
        if steps:
            ids = [step.revision.revision for step in steps]
            raise Pending(
                f"The database is behind: {place.name} is at {listed(place.rows)}, and"
                f" {counted(len(ids))} {'is' if len(ids) == 1 else 'are'} pending: {listed(ids)}.",
            )
        if place.seen is None:
            raise DatabaseMissing(f"{place.name} does not exist yet.", hint="'alembic-job upgrade' creates it.")
    places = {place.seen.where: place for place in project.places if place.seen}
    context = RevisionContext(config, project.environment.script, dict(arguments))

    def steps_(reached: Reached) -> Iterable[Any]:
        # That the database is not behind is known; Alembic asks again, and stumbles over rows of its own at times.
        hiding(reached.context.opts)
        heads: Any = tuple(one.revision for one in context.script_directory.get_revisions("heads") if one)
        try:
            context.run_autogenerate(heads, reached.context)
        except Exception as error:  # of env.py's own hooks and models, most likely
            raise _explained(error) from error
        written = context.generated_revisions
        for operation in written[-1].upgrade_ops_list[-1].as_diffs() if written else ():
            difference = described(operation)
            found.append(difference)
            places[reached.where].emit(difference)
        return ()

    with project.job.stop.at_once():
        ended = project.environment.run(
            steps_, config=config, dont_mutate=True, template_args=context.template_args, revision_context=context
        )
    ended.raise_if_failed()
    return context


def _explained(error: Exception) -> RunnerError:
    if _NO_MODELS in str(error):
        return ConfigInvalid(
            "env.py gives Alembic no models to compare with.",
            hint="Set target_metadata in env.py to the MetaData of the models.",
        )
    return translated(error)


def described(operation: Any) -> DifferenceFound:
    """One of Alembic's differences, which come as tuples, or as a list of those about one column."""
    if isinstance(operation, list):
        parts = [described(one) for one in operation]
        if len(parts) == 1:
            return parts[0]
        return DifferenceFound(
            operation=" ".join(one.operation for one in parts),
            table=parts[0].table,
            object=parts[0].object,
            database=", ".join(filter(None, (one.database for one in parts))) or None,
            models=", ".join(filter(None, (one.models for one in parts))) or None,
        )
    name, *rest = operation
    table: str | None = None
    object_: str | None = None
    database: str | None = None
    models: str | None = None
    if name.startswith("modify_"):
        schema, table_name, object_, _, there, wanted = rest
        table, database, models = _joined(schema, table_name), _text(there), _text(wanted)
    elif name in ("add_column", "remove_column"):
        schema, table_name, column = rest
        table, object_ = _joined(schema, table_name), str(column.name)
        database, models = _sided(name, _column(column))
    else:
        subject = rest[0] if rest else None
        owner = getattr(subject, "table", subject)
        table = getattr(owner, "fullname", None)
        if owner is not subject:
            object_ = str(getattr(subject, "name", None) or "") or None
        columns = [str(column.name) for column in getattr(subject, "columns", ())]
        database, models = _sided(name, f"({', '.join(columns)})" if columns else None)
    return DifferenceFound(operation=name, table=table, object=object_, database=database, models=models)


def _sided(operation: str, text: str | None) -> tuple[str | None, str | None]:
    """What is removed is in the database, what is added in the models."""
    return (text, None) if operation.startswith("remove_") else (None, text)


def _joined(schema: str | None, table: str) -> str:
    return f"{schema}.{table}" if schema else table


def _column(column: Any) -> str:
    return f"{_text(column.type)}{'' if column.nullable else ' NOT NULL'}"


def _text(value: Any) -> str:
    """A type, a default, or whether null is allowed, in a few words."""
    if value is None or value is False or value is True:
        return {None: "none", False: "no", True: "yes"}[value]
    return " ".join(str(getattr(value, "arg", value)).split())
