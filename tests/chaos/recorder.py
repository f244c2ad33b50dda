"""Copied into each project: a revision records its own execution here, where no fault reaches it.

The record is a file of JSON lines, each appended by one write: a rollback, a dead server or one without
room for another connection does not lose any of it. It has one clock, the machine's, for all runs.

When a revision starts it writes that first, then looks for executions that have neither ended nor failed,
and asks the server, as its administrator, what their sessions are doing. Of two executions that overlap
one starts later, so this misses none; also not the statement of a run that is dead, which the server
goes on with. An execution whose own session is gone when it looks can do nothing any more: it was
frozen in between, say, while its connection was cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid


@contextlib.contextmanager
def execution(bind, revision):
    """Around the body of ``upgrade()``; gives the token of this execution."""
    token = uuid.uuid4().hex[:12]
    session = _session(bind)
    _write(
        what="start", token=token, revision=revision, run=os.environ["CHAOS_RUN"], pid=os.getpid(), session=session,
        boot=_boot(),
    )  # fmt: skip
    _write(what="beside", token=token, **_look(token, session))
    try:
        yield token
    except BaseException as error:
        _write(what="raised", token=token, error=f"{type(error).__name__}: {error}"[:300])
        raise
    _write(what="end", token=token)


def _write(**fields):
    descriptor = os.open(os.environ["CHAOS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps({"at": time.monotonic(), **fields}).encode() + b"\n")
    finally:
        os.close(descriptor)


def _boot():
    """How often the server was started: its session numbers begin again each time."""
    with open(os.environ["CHAOS_BOOT"]) as file:  # noqa: PTH123
        return int(file.read())


def _session(bind):
    ask = {
        "mysql": "SELECT CONNECTION_ID()",
        "mariadb": "SELECT CONNECTION_ID()",
        "postgresql": "SELECT pg_backend_pid()",
    }
    sql = ask.get(bind.dialect.name)
    return int(bind.exec_driver_sql(sql).scalar()) if sql else None


def _look(token, session):
    """What the own session does, and others that have begun and not ended: whether the process lives, and theirs."""
    begun = {}
    with open(os.environ["CHAOS_RECORD"]) as file:  # noqa: PTH123
        for line in file:
            said = json.loads(line)
            if said["what"] == "start":
                begun[said["token"]] = said
            elif said["what"] in ("end", "raised"):
                begun.pop(said["token"], None)
    begun.pop(token, None)
    sessions = _sessions() if begun else {session: "idle"}
    others = [
        {
            "token": one["token"],
            "alive": _alive(one["pid"]),
            "session": sessions.get(one["session"]) if one["boot"] == _boot() else None,
        }
        for one in begun.values()
    ]
    return {"mine": sessions.get(session), "others": others}


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _sessions():
    """What each session of the server does: ``executing`` or ``idle``. On SQLite a session is its process."""
    admin = json.loads(os.environ["CHAOS_ADMIN"])
    if not admin:
        return {None: "idle"}
    try:
        if admin.pop("dialect") == "mariadb":
            import pymysql

            connection = pymysql.connect(**admin, ssl_disabled=True, autocommit=True, connect_timeout=5)
            sql = "SELECT id, command <> 'Sleep' FROM information_schema.processlist"
        else:
            import psycopg

            connection = psycopg.connect(**admin, autocommit=True, connect_timeout=5)
            sql = "SELECT pid, state IS NULL OR state = 'active' FROM pg_stat_activity"
        with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            return {int(number): "executing" if busy else "idle" for number, busy in cursor.fetchall()}
    except Exception:  # the server was killed just now: it has no sessions
        return {}
