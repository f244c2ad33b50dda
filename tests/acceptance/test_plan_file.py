"""A plan that is written in one stage, reviewed, and applied in a later one: as it is, or not at all (36)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.expect import URL, applied_nothing, refused
from tests.acceptance.test_any_project import in_both, of_several, with_creator
from tests.acceptance.test_kinds import TWO_TABLES
from tests.acceptance.test_ledger import ENV_OF_ITS_OWN
from tests.databases import Database, sqlite_database
from tests.job import Job, Project, Result, Revision, creates, linear, make_project, start
from tests.processes import signal_tree

Run = Callable[..., Result]
Start = Callable[..., Job]
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Stages:
    """One project and one database: what is planned, and what is applied."""

    def __init__(self, run_job: Run, project: Project, database: Database) -> None:
        self._run_job = run_job
        self.project = project
        self.env = {URL: database.url}
        self.file = project.path / "plan.json"

    def run(self, *arguments: str, **env: str) -> Result:
        return self._run_job(*arguments, cwd=self.project.path, env={**self.env, **env})

    def plan(self, *arguments: str, **env: str) -> dict[str, Any]:
        result = self.run("plan", *arguments, "--out", "plan.json", **env)
        assert (result.exit_code, result.finished["outcome"]) == (0, "reported"), result.stdout
        assert "alembic-job upgrade --plan plan.json" in result.finished["hint"]
        written: dict[str, Any] = json.loads(self.file.read_text())
        assert {event["digest"] for event in result.of("plan_ready")} == {written["digest"]}
        return written

    def apply(self, **env: str) -> Result:
        return self.run("upgrade", "--plan", "plan.json", **env)

    def goes_well(self, *applied: str, outcome: str = "upgraded", **env: str) -> Result:
        result = self.apply(**env)
        assert (result.exit_code, result.finished["outcome"]) == (0, outcome), result.stdout
        assert result.finished["applied"] == list(applied)
        assert result.one("plan_ready")["digest"] == json.loads(self.file.read_text())["digest"]
        return result

    def is_stale(self, *facts: str, **env: str) -> Result:
        result = self.apply(**env)
        stale(result, *facts)
        return result


def stale(result: Result, *facts: str) -> None:
    refused(result, 36, "plan_stale", "The plan plan.json does not fit any more", *facts)
    assert result.finished["hint"].endswith("alembic-job plan --out plan.json"), result.finished["hint"]
    applied_nothing(result)


@pytest.fixture
def stages(tmp_path: Path, database: Database, run_job: Run) -> Stages:
    return Stages(run_job, make_project(tmp_path, linear(4)), database)


# --- as it was reviewed -------------------------------------------------------------------------------


def test_what_was_planned_is_applied_and_a_retry_has_nothing_to_do(stages: Stages, database: Database) -> None:
    assert stages.run("upgrade", "r1").exit_code == 0
    written = stages.plan("r3")
    [there] = written["databases"]
    assert written["target"] == ["r3"]
    assert (there["section"], there["version_table"], there["state"]) == (None, "alembic_version", "behind")
    assert (there["current"], there["goal"]) == (["r1"], ["r3"])
    assert [one["revision"] for one in there["pending"]] == ["r2", "r3"]
    for one in (written["env"], *there["pending"]):
        assert one["sha256"] == hashlib.sha256((stages.project.path / one["path"]).read_bytes()).hexdigest()
    result = stages.goes_well("r2", "r3")
    assert (result.one("run_started")["target"], result.one("plan_ready")["target"]) == ([], ["r3"])
    assert database.versions() == {"r3"}
    again = stages.goes_well(outcome="up_to_date")
    assert not again.of("lock_acquired")


def test_the_file_says_nothing_of_who_where_and_when_and_is_the_same_for_the_same_plan(
    stages: Stages, database: Database
) -> None:
    stages.plan()
    first = stages.file.read_bytes()
    stages.plan()
    assert stages.file.read_bytes() == first
    if database.login:
        for secret in (database.login.password, database.login.host, database.login.user, database.login.name):
            assert str(secret).encode() not in first
    else:
        assert str(database.path).encode() not in first


def test_what_another_run_applied_of_it_is_left_out(stages: Stages) -> None:
    stages.plan()
    assert stages.run("upgrade", "r2").exit_code == 0
    stages.goes_well("r3", "r4")


def test_what_another_run_applied_as_a_whole_is_success(stages: Stages) -> None:
    stages.plan("r3")
    assert stages.run("upgrade").exit_code == 0
    stages.goes_well(outcome="up_to_date")


def test_after_kill_9_the_same_plan_goes_on(tmp_path: Path, database: Database, run_job: Run, start_job: Start) -> None:
    cut = 'if os.environ.get("CUT"): print("in the middle", flush=True); time.sleep(60)\n'
    table = 'op.create_table("t2", sa.Column("id", sa.Integer))'
    stages = Stages(run_job, make_project(tmp_path, linear(3)), database)
    stages.project.add(Revision("r2", "r1", cut + table))
    stages.plan()
    env = {**stages.env, "CUT": "1", "ALEMBIC_JOB_TRANSACTION": "per-revision"}
    job = start_job("upgrade", "--plan", "plan.json", cwd=stages.project.path, env=env)
    job.wait_for("user_output", text="in the middle")
    signal_tree(job.pid, signal.SIGKILL)
    job.process.wait()
    stages.goes_well("r2", "r3")


def test_branches_are_gone_on_with_in_the_order_of_the_plan(tmp_path: Path, database: Database, run_job: Run) -> None:
    history = [
        creates(f"{branch}{n}", f"{branch}{n}", f"{branch}{n - 1}" if n > 1 else None)
        for branch in "abc"
        for n in (1, 2, 3)
    ]
    stages = Stages(run_job, make_project(tmp_path, history), database)
    [there] = stages.plan()["databases"]
    order = [one["revision"] for one in there["pending"]]
    for revision in order[:4]:
        assert stages.run("upgrade", revision).exit_code == 0
    stages.goes_well(*order[4:])


@SQLITE
def test_the_variable_does_the_same_and_the_option_is_above_it(stages: Stages) -> None:
    stages.plan("r2")
    result = stages.run(ALEMBIC_JOB_PLAN="plan.json")  # with no command, too
    assert (result.exit_code, result.finished["applied"]) == (0, ["r1", "r2"])
    assert stages.run("--plan", "plan.json", ALEMBIC_JOB_PLAN="nowhere.json").finished["outcome"] == "up_to_date"


@SQLITE
def test_the_target_of_the_environment_gives_way_to_the_plan_and_one_beside_it_is_refused(stages: Stages) -> None:
    stages.plan("r2")
    beside = stages.run("upgrade", "r4", "--plan", "plan.json")
    refused(beside, 2, "config_invalid", "plan.json", "r4")
    applied_nothing(beside)
    stages.goes_well("r1", "r2", ALEMBIC_JOB_TARGET="r4")


@SQLITE
def test_a_relative_target_is_counted_from_where_the_plan_begins(stages: Stages) -> None:
    assert stages.run("upgrade", "r1").exit_code == 0
    stages.plan("+2")
    assert stages.run("upgrade", "r2").exit_code == 0
    stages.goes_well("r3")
    stages.goes_well(outcome="up_to_date")


@SQLITE
def test_several_targets_are_one_plan(tmp_path: Path, database: Database, run_job: Run) -> None:
    history = [creates("a", "a1"), creates("b", "b1"), creates("b2", "b2", "b1"), creates("c", "c1")]
    stages = Stages(run_job, make_project(tmp_path, history), database)
    [there] = stages.plan("a1", "b2")["databases"]
    result = stages.apply()
    assert result.finished["applied"] == [one["revision"] for one in there["pending"]]
    assert database.versions() == {"a1", "b2"}


# --- not as it was ------------------------------------------------------------------------------------


def test_a_database_that_is_elsewhere_is_refused(stages: Stages, database: Database) -> None:
    assert stages.run("upgrade", "r2").exit_code == 0
    stages.plan()
    assert stages.run("downgrade", "r1", "--yes").exit_code == 0
    result = stages.is_stale("is at r1", "from r2 to r4")
    assert not result.of("lock_acquired")
    assert database.versions() == {"r1"}


@SQLITE
def test_a_branch_that_came_in_between_is_refused(tmp_path: Path, database: Database, run_job: Run) -> None:
    history = [*linear(3), creates("b", "b1")]
    stages = Stages(run_job, make_project(tmp_path, history), database)
    stages.plan("r3")
    for target in ("r1", "b1"):
        assert stages.run("upgrade", target).exit_code == 0
    result = stages.apply()
    refused(result, 36, "plan_stale", "is at b1, r1", "from an empty version table to r3")
    assert result.finished["hint"].endswith("alembic-job plan r3 --out plan.json")
    applied_nothing(result)


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n# edited\n")


def r3_edited(project: Project) -> str:
    edit(project.versions / "r3_r3.py")
    return "migrations/versions/r3_r3.py was edited: its SHA-256 was"


def env_edited(project: Project) -> str:
    edit(project.env)
    return "migrations/env.py was edited: its SHA-256 was"


def r5_added(project: Project) -> str:
    project.add(*linear(5)[4:])
    return "heads was r4, and is r5 in this image; this image would also run r5"


def one_between(project: Project) -> str:
    project.add(creates("new", "new", "r2"), creates("t3", "r3", "new"))
    return "this image would also run new; migrations/versions/r3_r3.py was edited"


def r4_removed(project: Project) -> str:
    project.remove("r4")
    return "heads was r4, and is r3 in this image; this image would not run r4"


def another_project(project: Project) -> str:
    project.remove("r1", "r2", "r3", "r4")
    project.add(creates("t1", "x1"), creates("t2", "x2", "x1"))
    return "heads was r4, and is x2 in this image; this image would also run x1, x2; this image would not run r1"


def two_heads(project: Project) -> str:
    project.add(creates("side", "side", "r2"))
    return "heads was r4, and is r4, side in this image"


CHANGES = [r3_edited, env_edited, r5_added, one_between, r4_removed, another_project, two_heads]


@SQLITE
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_files_that_changed_are_named(stages: Stages, change: Callable[[Project], str]) -> None:
    stages.plan()
    stages.is_stale(change(stages.project))


@SQLITE
def test_a_target_that_no_longer_says_one_thing_is_stale(stages: Stages) -> None:
    stages.plan("head")
    two_heads(stages.project)
    result = stages.apply()
    refused(result, 36, "plan_stale", "'head' is ambiguous")
    assert result.finished["hint"].endswith("alembic-job plan head --out plan.json")


@SQLITE
def test_files_that_are_not_to_be_run_may_change(stages: Stages) -> None:
    assert stages.run("upgrade", "r1").exit_code == 0
    stages.plan("r3")
    for name in ("r1_r1.py", "r4_r4.py"):
        edit(stages.project.versions / name)
    stages.goes_well("r2", "r3")


@SQLITE
def test_the_stages_may_stand_in_other_directories(stages: Stages, tmp_path: Path, run_job: Run) -> None:
    stages.plan()
    shutil.move(stages.file, tmp_path / "artifact.json")
    ini = str(stages.project.ini.relative_to(tmp_path))
    result = run_job("upgrade", "-c", ini, "--plan", "artifact.json", cwd=tmp_path, env=stages.env)
    assert (result.exit_code, result.finished["count"]) == (0, 4), result.stdout


@SQLITE
def test_another_way_of_writing_the_json_is_no_change(stages: Stages) -> None:
    written = stages.plan()
    stages.file.write_text(json.dumps(dict(reversed(list(written.items())))))
    stages.goes_well("r1", "r2", "r3", "r4")


@SQLITE
def test_another_version_table_is_refused(tmp_path: Path, database: Database, run_job: Run) -> None:
    history = [creates("a", "r1")]
    one = Stages(run_job, make_project(tmp_path / "one", history, env=ENV_OF_ITS_OWN.format(table="one")), database)
    two = Stages(run_job, make_project(tmp_path / "two", history, env=ENV_OF_ITS_OWN.format(table="two")), database)
    one.plan()
    shutil.copy(one.file, two.file)
    two.is_stale("env.py was edited", "it is for the version table one, and this is two")


def test_another_kind_of_database_is_refused(stages: Stages, database: Database, tmp_path: Path) -> None:
    stages.plan()
    if database.path:
        written = json.loads(stages.file.read_text())
        written["databases"][0]["dialect"] = "mysql"
        sign(stages.file, written)
    else:
        stages.env = {URL: sqlite_database(tmp_path / "other.sqlite").url}
    stages.is_stale("it is for the database")


# --- while it waits -----------------------------------------------------------------------------------

SLOW_DOWN = Revision(
    "r2",
    "r1",
    'op.create_table("t2", sa.Column("id", sa.Integer))',
    'print("going down", flush=True)\nwhile not os.path.exists("go"): time.sleep(0.1)\nop.drop_table("t2")',
)


def go(project: Project) -> None:
    (project.path / "go").touch()


@pytest.mark.parametrize("kind", ["own connection", "creator"])
def test_it_is_compared_again_under_the_lock(
    tmp_path: Path, database: Database, run_job: Run, start_job: Start, kind: str
) -> None:
    project = make_project(tmp_path, linear(4), env=with_creator(database) if kind == "creator" else None)
    project.add(SLOW_DOWN)
    stages = Stages(run_job, project, database)
    if kind == "creator":
        stages.env = {}
    assert stages.run("upgrade", "r2").exit_code == 0
    stages.plan()
    down = start_job("downgrade", "r1", "--yes", cwd=project.path, env=stages.env)
    down.wait_for("user_output", text="going down")
    job = start_job("upgrade", "--plan", "plan.json", cwd=project.path, env=stages.env)
    job.wait_for("lock_waiting")
    go(project)
    assert down.finish().exit_code == 0
    result = job.finish()
    stale(result, "is at r1", "from r2 to r4")
    assert result.one("plan_ready")["current"] == ["r2"]  # it fitted when it was looked at first
    assert database.versions() == {"r1"}


@SQLITE
def test_a_file_that_is_edited_while_it_waits_is_seen_under_the_lock(
    stages: Stages, database: Database, start_job: Start
) -> None:
    stages.project.add(SLOW_DOWN)
    assert stages.run("upgrade", "r2").exit_code == 0
    stages.plan()
    down = start_job("downgrade", "r1", "--yes", cwd=stages.project.path, env=stages.env)
    down.wait_for("user_output", text="going down")
    job = start_job("upgrade", "--plan", "plan.json", cwd=stages.project.path, env=stages.env)
    job.wait_for("lock_waiting")
    fact = r3_edited(stages.project)
    stale(job.finish(), fact)
    go(stages.project)
    assert down.finish().exit_code == 0


def test_three_pods_with_the_same_plan_apply_it_once(stages: Stages, start_job: Start) -> None:
    stages.project.add(in_both(1, "time.sleep(2)"))
    stages.plan()
    jobs = [start_job("upgrade", "--plan", "plan.json", cwd=stages.project.path, env=stages.env) for _ in range(3)]
    results = [job.finish() for job in jobs]
    assert [result.exit_code for result in results] == [0, 0, 0], [result.finished for result in results]
    assert sorted(result.finished["count"] for result in results) == [0, 0, 4]


# --- several databases --------------------------------------------------------------------------------


def test_several_databases_are_one_plan(tmp_path: Path, pair: tuple[Database, Database], run_job: Run) -> None:
    stages = Stages(run_job, of_several(tmp_path, *pair, in_both(1), in_both(2)), pair[0])
    stages.env = {}
    written = stages.plan()
    assert [one["section"] for one in written["databases"]] == ["users", "orders"]
    result = stages.apply()
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded"), result.stdout
    assert {event["digest"] for event in result.of("plan_ready")} == {written["digest"]}
    assert stages.apply().finished["outcome"] == "up_to_date"


def test_when_one_of_several_databases_changed_nothing_is_run_in_any(
    tmp_path: Path, pair: tuple[Database, Database], run_job: Run
) -> None:
    stages = Stages(run_job, of_several(tmp_path, *pair, in_both(1), in_both(2)), pair[0])
    stages.env = {}
    assert stages.run("upgrade", "r1").exit_code == 0
    stages.plan()
    pair[1].execute("DELETE FROM alembic_version")
    result = stages.is_stale("is at nothing", "from r1 to r2")
    assert pair[0].versions() == {"r1"}
    assert not result.of("lock_acquired")


@SQLITE
def test_a_plan_for_other_databases_is_refused(tmp_path: Path, pair: tuple[Database, Database], run_job: Run) -> None:
    stages = Stages(run_job, of_several(tmp_path, *pair, in_both(1), in_both(2)), pair[0])
    stages.env = {}
    stages.plan()
    ini = stages.project.ini
    ini.write_text(ini.read_text().replace("databases = users, orders", "databases = users"))
    stages.is_stale("it is for orders, users, and env.py migrates one database")


@SQLITE
def test_two_version_tables_in_one_database_are_one_plan(tmp_path: Path, database: Database, run_job: Run) -> None:
    body = 'op.create_table(f"{table}_1", sa.Column("id", sa.Integer))'
    stages = Stages(run_job, make_project(tmp_path, [Revision("r1", upgrade=body)], env=TWO_TABLES), database)
    for path in stages.project.versions.glob("*.py"):
        path.write_text(path.read_text().replace("def upgrade()", "def upgrade(table)"))
    database.path.unlink(missing_ok=True)  # type: ignore[union-attr]
    tables = [one["version_table"] for one in stages.plan()["databases"]]
    assert tables == ["version_one", "version_two"]
    assert stages.apply().finished["outcome"] == "upgraded"
    assert stages.apply().finished["outcome"] == "up_to_date"


# --- what may be planned ------------------------------------------------------------------------------


def test_nothing_pending_is_a_plan_and_nothing_is_done(stages: Stages) -> None:
    assert stages.run("upgrade").exit_code == 0
    [there] = stages.plan()["databases"]
    assert (there["state"], there["pending"]) == ("current", [])
    stages.goes_well(outcome="up_to_date")


@SQLITE
def test_with_exit_code_3_the_file_is_written_all_the_same(stages: Stages) -> None:
    assert stages.run("plan", "--out", "plan.json", "--exit-code").exit_code == 3
    stages.goes_well("r1", "r2", "r3", "r4")


@SQLITE
def test_a_database_that_is_ahead_is_a_plan_with_nothing_to_do(stages: Stages) -> None:
    assert stages.run("upgrade").exit_code == 0
    stages.project.remove("r4")
    [there] = stages.plan()["databases"]
    assert (there["state"], there["current"], there["goal"], there["pending"]) == ("ahead", ["r4"], ["r3"], [])
    stages.goes_well(outcome="ahead")


@SQLITE
def test_a_database_that_went_ahead_since_holds_what_was_planned(stages: Stages) -> None:
    stages.project.remove("r4")
    stages.plan()
    stages.project.add(*linear(4)[3:])
    assert stages.run("upgrade").exit_code == 0
    stages.project.remove("r4")
    stages.goes_well(outcome="ahead")


@SQLITE
def test_an_unknown_revision_writes_nothing_and_leaves_the_file_of_before(stages: Stages) -> None:
    stages.plan()
    before = stages.file.read_bytes()
    assert stages.run("upgrade", ALEMBIC_JOB_LEDGER="false").exit_code == 0
    stages.project.remove("r4")
    refused(stages.run("plan", "--out", "plan.json"), 30, "revision_unknown", "r4")
    assert stages.file.read_bytes() == before
    refused(stages.run("plan", "--out", "new.json"), 30, "revision_unknown", "r4")
    assert not (stages.project.path / "new.json").exists()


@SQLITE
def test_tables_without_a_version_are_said_so_in_the_plan_and_refused_as_ever(
    stages: Stages, database: Database
) -> None:
    database.execute("CREATE TABLE t1 (id INTEGER)")
    [there] = stages.plan()["databases"]
    assert there["state"] == "unmanaged"
    refused(stages.apply(), 34, "schema_unmanaged", "t1")


def test_a_sqlite_file_that_is_not_there_stays_away_until_the_plan_is_applied(tmp_path: Path, run_job: Run) -> None:
    database = sqlite_database(tmp_path / "later.sqlite")
    env = ENV_OF_ITS_OWN.format(table="app_version")
    stages = Stages(run_job, make_project(tmp_path, linear(2), env=env), database)
    [there] = stages.plan()["databases"]
    assert (there["version_table"], there["state"]) == ("app_version", "empty")
    assert not (tmp_path / "later.sqlite").exists()
    stages.goes_well("r1", "r2")


# --- the file -----------------------------------------------------------------------------------------


@SQLITE
@pytest.mark.parametrize(
    ("out", "fact"),
    [
        ("nowhere/plan.json", "No such file or directory"),
        ("migrations", "it is no file"),
        ("/dev/null", "it is no file"),
        ("/dev/stdout", "it is no file"),
        ("alembic.ini/plan.json", "Not a directory"),
        ("-", "stdout carries events only"),
        ("", "the name of a file is needed"),
    ],
)
def test_a_file_that_cannot_be_written_is_told(stages: Stages, out: str, fact: str) -> None:
    refused_2(stages.run("plan", "--out", out), fact)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def refused_2(result: Result, *facts: str) -> None:
    assert (result.exit_code, result.finished["exit_name"]) == (2, "config_invalid"), result.stdout
    for fact in facts:
        assert fact in result.finished["error"]
    assert result.finished["hint"]


@SQLITE
def test_the_plan_and_not_its_sql_goes_to_a_file(stages: Stages) -> None:
    refused(stages.run("plan", "--sql", "--out", "plan.json"), 2, "config_invalid", "--out")
    assert not stages.file.exists()


@SQLITE
def test_a_full_disk_leaves_the_file_of_before_and_nothing_beside_it(stages: Stages, start_small: Start) -> None:
    stages.plan("r1")
    before, beside = stages.file.read_bytes(), sorted(stages.project.path.iterdir())
    assert len(before) < 1024
    stages.project.add(*linear(9)[4:])
    result = start_small("plan", "--out", "plan.json", cwd=stages.project.path, env=stages.env).finish()
    refused(result, 2, "config_invalid", "plan.json", "File too large")
    assert stages.file.read_bytes() == before
    assert sorted(stages.project.path.iterdir()) == beside


@pytest.fixture
def start_small() -> Iterator[Start]:
    """Start the process where no file may grow beyond 1 KiB."""
    started: list[Job] = []

    def begin(*arguments: str, **options: Any) -> Job:
        limited = 'ulimit -f 1; PYTHONDONTWRITEBYTECODE=1 exec alembic-job "$@"'
        started.append(start(["bash", "-c", limited, "-", *arguments], **options))
        return started[-1]

    yield begin
    for job in started:
        job.kill()


@SQLITE
def test_a_link_stays_a_link_and_who_may_read_is_for_the_umask_to_say(stages: Stages, tmp_path: Path) -> None:
    stages.file.symlink_to(tmp_path / "shared.json")
    before = os.umask(0o027)
    try:
        stages.plan()
    finally:
        os.umask(before)
    assert stages.file.is_symlink()
    assert stat.S_IMODE((tmp_path / "shared.json").stat().st_mode) == 0o640
    stages.goes_well("r1", "r2", "r3", "r4")


def sign(path: Path, content: dict[str, Any]) -> None:
    """Write a document with a digest that fits, as documented."""
    content.pop("digest", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**content, "digest": "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()}))


def newer(written: dict[str, Any]) -> None:
    written["format"] = 2


def without_env(written: dict[str, Any]) -> None:
    del written["env"]


def of_a_wrong_type(written: dict[str, Any]) -> None:
    written["databases"][0]["pending"] = "r1"


def with_more(written: dict[str, Any]) -> None:
    written["skip_checks"] = True


@SQLITE
@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (newer, "is of format 2, from a newer alembic-job; this one knows 1"),
        (without_env, "is no plan of alembic-job: env"),
        (of_a_wrong_type, "is no plan of alembic-job: databases.0.pending"),
        (with_more, "is no plan of alembic-job: skip_checks"),
    ],
)
def test_a_document_of_another_make_is_told(
    stages: Stages, change: Callable[[dict[str, Any]], None], fact: str
) -> None:
    written = stages.plan()
    change(written)
    sign(stages.file, written)
    refused(stages.apply(), 2, "config_invalid", fact)


@SQLITE
def test_a_plan_that_was_edited_by_hand_is_refused(stages: Stages) -> None:
    written = stages.plan()
    del written["databases"][0]["pending"][1]
    stages.file.write_text(json.dumps(written))
    result = stages.apply()
    refused(result, 2, "config_invalid", "was changed after it was written", written["digest"])
    applied_nothing(result)


@SQLITE
@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is no JSON"),
        (b'{"format": 1, "digest": "sha', "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "is no plan of alembic-job"),
        (b"{}", "is no plan of alembic-job"),
        (b'{"format": "1"}', "is no plan of alembic-job"),
        (b'{"format": true}', "is no plan of alembic-job"),
        (b'{"format": 1}', "was changed after it was written"),
    ],
)
def test_a_file_that_is_no_plan_is_told(stages: Stages, content: bytes | None, fact: str) -> None:
    if content is not None:
        stages.file.write_bytes(content)
    refused(stages.apply(), 2, "config_invalid", "plan.json", fact)


@SQLITE
def test_a_name_that_is_empty_is_no_upgrade_without_a_plan(stages: Stages, database: Database) -> None:
    refused_2(stages.run("upgrade", "--plan", ""), "--plan")
    assert database.versions() == set()


@SQLITE
def test_a_plan_is_for_upgrade_alone(stages: Stages) -> None:
    stages.plan()
    for command in ("wait", "plan", "status"):
        refused_2(stages.run(command, "--plan=plan.json"), "--plan")


# --- the docs -----------------------------------------------------------------------------------------


def test_the_pipeline_of_the_docs_works(stages: Stages, database: Database) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block
    pipeline = yaml.safe_load(block[1])
    assert pipeline["apply"]["needs"] == ["plan"] and pipeline["apply"]["when"] == "manual"
    for stage in ("plan", "apply"):
        for line in pipeline[stage]["script"]:
            job = start(["sh", "-ec", line], cwd=stages.project.path, env=stages.env)
            assert job.finish().exit_code == 0, job.stdout
        for name in pipeline[stage].get("artifacts", {}).get("paths", ()):
            assert (stages.project.path / name).is_file()
    assert database.versions() == {"r4"}
