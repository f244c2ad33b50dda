"""What the ledger costs: ``python -m tests.overhead`` runs 200 empty revisions, with it and without, and plain Alembic.

The time is that between the first ``revision_started`` and the end of the last revision, so that the start of the
process does not count; of plain Alembic, that of ``alembic.command.upgrade``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from tests.acceptance.plain import _UPGRADE
from tests.databases import Database, sqlite_database
from tests.job import Event, Project, Revision, make_project, run_job
from tests.servers import PrivateServer, private_server

_TIMED = _UPGRADE.replace(
    "command.upgrade(config, target)",
    "import time; started = time.monotonic(); command.upgrade(config, target); print(time.monotonic() - started)",
)

_BODY = """op.execute("CREATE TABLE t{0} (id INTEGER)")
op.execute("INSERT INTO t{0} VALUES (1)")
"""


def main() -> None:
    """Print the table of docs/ledger.md."""
    parser = argparse.ArgumentParser(prog="python -m tests.overhead", description=__doc__)
    parser.add_argument("--revisions", type=int, default=200)
    parser.add_argument("--times", type=int, default=3, help="how often; the best one counts")
    parser.add_argument("--statements", action="store_true", help="a CREATE TABLE and an INSERT in each, not nothing")
    options = parser.parse_args()
    count, times = options.revisions, options.times
    print("| | plain Alembic | without the ledger | with the ledger | the ledger, per revision |")
    print("| --- | --- | --- | --- | --- |")
    for dialect in ("mariadb", "postgresql", "sqlite"):
        server = None if dialect == "sqlite" else private_server(dialect)
        try:
            with tempfile.TemporaryDirectory() as directory:
                revisions = [
                    Revision(
                        f"r{n}",
                        f"r{n - 1}" if n > 1 else None,
                        upgrade=_BODY.format(n) if options.statements else "pass",
                    )
                    for n in range(1, count + 1)
                ]
                project = make_project(Path(directory), revisions)
                plain = min(_plain(project, _new(server, directory, f"p{n}")) for n in range(times))
                # Turn by turn, so that what else the machine does meets both.
                runs = [
                    [_ours(project, _new(server, directory, f"{ledger}{n}"), ledger) for ledger in ("false", "true")]
                    for n in range(times)
                ]
        finally:
            if server:
                server.discard()
        without, with_it = (min(seconds) for seconds in zip(*runs, strict=True))
        each = (with_it - without) / count * 1000
        print(f"| {dialect} | {plain:.2f} s | {without:.2f} s | {with_it:.2f} s | {each:.1f} ms |", flush=True)


def _new(server: PrivateServer | None, directory: str, name: str) -> Database:
    return server.new_database() if server else sqlite_database(Path(directory, f"{name}.sqlite"))


def _plain(project: Project, database: Database) -> float:
    scripts = str(project.path / "migrations")
    command = [sys.executable, "-c", _TIMED, database.url, str(project.ini), scripts, "heads"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout.splitlines()[-1])


def _ours(project: Project, database: Database, ledger: str) -> float:
    environment = {"ALEMBIC_JOB_DATABASE_URL": database.url, "ALEMBIC_JOB_LEDGER": ledger}
    result = run_job("upgrade", cwd=project.path, env=environment, timeout_s=120)
    assert result.exit_code == 0, result.stdout
    return _at(result.of("revision_executed")[-1]) - _at(result.of("revision_started")[0])


def _at(event: Event) -> float:
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()


if __name__ == "__main__":
    main()
