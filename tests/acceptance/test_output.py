"""JSON lines and nothing else on stdout, whatever user code does with its output."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.databases import Database
from tests.job import LONGEST_LINE, SCRIPTS, Job, Result, Revision, check_lines, creates, make_project

PROJECTS = Path(__file__).parents[1] / "projects"
SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
PIPE = 64 * 1024

Run = Callable[..., Result]
Start = Callable[..., Job]

# What comes before the stock part of env.py, for code of the test.
ENV = """
import logging, logging.config, os, signal, subprocess, sys, threading, time, warnings
from alembic import context
from sqlalchemy import create_engine, pool

{code}

engine = create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def environment(database: Database, **more: str) -> dict[str, str]:
    return {"ALEMBIC_JOB_DATABASE_URL": database.url, **more}


@pytest.fixture
def with_env(tmp_path: Path, database: Database, run_job: Run) -> Callable[..., Result]:
    """Run a project of one revision whose env.py first runs some code."""

    def run(code: str, **options: str) -> Result:
        project = make_project(tmp_path, [creates("apples", "r1")], env=ENV.format(code=code))
        return run_job("upgrade", cwd=project.path, env=environment(database, **options))

    return run


@pytest.fixture
def with_revision(tmp_path: Path, database: Database, run_job: Run) -> Callable[..., Result]:
    """Run a project whose second of three revisions runs some code after it created a table."""

    def run(code: str, *arguments: str, **options: str) -> Result:
        body = 'op.create_table("pears", sa.Column("id", sa.Integer, primary_key=True))\n' + code
        revisions = [creates("apples", "r1"), Revision("r2", "r1", body), creates("plums", "r3", "r2")]
        project = make_project(tmp_path, revisions)
        return run_job(*arguments, "upgrade", cwd=project.path, env=environment(database, **options))

    return run


def texts(result: Result, **fields: Any) -> list[str]:
    """What user code said, in lines."""
    said = [event["text"] for event in result.of("user_output") if fields.items() <= event.items()]
    return [line for text in said for line in text.split("\n")]


# --- much of it -------------------------------------------------------------------------------------


@SQLITE
def test_twenty_megabytes_come_through_as_a_whole(database: Database) -> None:
    with started(PROJECTS / "env_prints_megabytes", database) as process:
        lines = process.stdout.read().splitlines(keepends=True)
        assert process.wait(20) == 0
    check_lines(lines[:100])  # each would take a while
    events = [json.loads(line) for line in lines]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert max(map(len, lines)) <= LONGEST_LINE
    result = Result(0, "", "", events)
    assert result.finished["outcome"] == "upgraded"
    out, err = texts(result, stream="stdout"), texts(result, stream="stderr")
    numbered = [int(line.split()[0]) for line in out if re.match(r"\d{6} ", line)]
    assert numbered == [*range(10_000)] * 2  # env.py runs for the look and for the upgrade
    assert sum(len(line) for line in out if set(line) == {"x"}) == 2 * 10_000_000
    assert out.count("progress 100 %") == 2
    assert "progress  99 %" not in out
    assert out.count("invalid UTF-8: \\xff\\xfe\\xc3( and a NUL: \0") == 2
    assert out.count("from a child process") == 2 * 1_000
    assert out.count("the last words, without a newline") == 2
    assert [line.partition(" .")[0] for line in err] == ["to stderr"] * 2_000


@SQLITE
def test_a_flood_of_short_lines_comes_through_as_a_whole(with_env: Run) -> None:
    result = with_env("for number in range(100_000): sys.stdout.buffer.write(b'%d\\n' % number)")
    assert texts(result) == [*map(str, range(100_000))] * 2
    assert len(result.events) < 100_000


@SQLITE
def test_a_slow_reader_loses_nothing_and_the_job_keeps_little_in_memory(tmp_path: Path, database: Database) -> None:
    code = 'for number in range(40): print(("%04d " % number) + "x" * 100_000)'
    project = make_project(tmp_path, [creates("apples", "r1")], env=ENV.format(code=code))
    with started(project.path, database) as process:
        assert process.stdout
        data = process.stdout.read(PIPE)
        time.sleep(0.5)  # by now every pipe is full
        size_kb = int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[0])
        data += process.stdout.read()
        code_ = process.wait(20)
    lines = data.splitlines(keepends=True)
    check_lines(lines)
    said = "".join(json.loads(line).get("text", "") for line in lines)
    assert (code_, json.loads(lines[-1])["exit_code"]) == (0, 0)
    assert [int(number) for number in re.findall(r"(\d{4}) ", said)] == [*range(40)] * 2
    assert said.count("x") == 2 * 40 * 100_000
    assert size_kb < 100_000


@contextlib.contextmanager
def started(cwd: Path, database: Database, **options: Any) -> Any:
    """Start the process for a reader with habits of its own."""
    env = {"PATH": os.environ["PATH"], "ALEMBIC_JOB_LOG_FORMAT": "json", **environment(database)}
    env |= options.pop("env", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    process = subprocess.Popen([str(SCRIPTS / "alembic-job")], cwd=cwd, env=env, start_new_session=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


@SQLITE
def test_the_migration_goes_on_when_the_reader_goes_away(tmp_path: Path, database: Database) -> None:
    code = 'for number in range(300): print("x" * 1000, flush=True)'
    project = make_project(tmp_path, [creates("apples", "r1")], env=ENV.format(code=code))
    with started(project.path, database, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
    assert database.versions() == {"r1"}


@SQLITE
def test_the_exit_code_is_right_when_the_reader_goes_away(tmp_path: Path, database: Database) -> None:
    project = make_project(tmp_path, [Revision("r1", None, "1 / 0")])
    with started(project.path, database) as process:
        process.stdout.close()
        assert process.wait(20) == 40


@SQLITE
def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(with_env: Run, database: Database) -> None:
    result = with_env(
        "os.set_blocking(1, False); os.set_blocking(2, False)\n"
        "for number in range(2000): logging.getLogger('app').warning('%d %s', number, 'x' * 200)"
    )
    assert result.exit_code == 0
    assert [line.split()[0] for line in texts(result, logger="app")] == [*map(str, range(2000))] * 2


# --- odd of it --------------------------------------------------------------------------------------


@SQLITE
def test_every_way_to_write_ends_up_in_events(with_env: Run) -> None:
    result = with_env(
        r"""
print("printed")
sys.stdout.write("without a newline")
sys.stdout.flush()
print()
print("10 %\r50 %\r100 %")
sys.stdout.buffer.write(b"bytes \xff\xfe\x00\n")
sys.stdout.flush()
os.write(1, b"straight to 1\n")
os.write(2, b"straight to 2\n")
sys.__stdout__.write("to the first stdout\n")
sys.__stderr__.write("to the first stderr\n")
subprocess.run(["sh", "-c", "echo from a child; echo and its stderr >&2"])
os.system("echo from a shell")
warnings.warn("a warning")
threading.Thread(target=print, args=("from a thread",)).run()
if os.fork() == 0:
    print("from a fork", flush=True)
    logging.getLogger("app").error("logged in a fork")
    os._exit(0)
os.wait()
"""
    )
    assert result.exit_code == 0
    out, err = texts(result, stream="stdout"), texts(result, stream="stderr")
    assert (
        out[: len(out) // 2]
        == out[len(out) // 2 :]
        == [
            "printed",
            "without a newline",
            "100 %",
            "bytes \\xff\\xfe\0",
            "straight to 1",
            "to the first stdout",
            "from a child",
            "from a shell",
            "from a thread",
            "from a fork",
        ]
    )
    assert {"straight to 2", "to the first stderr", "and its stderr", "logged in a fork"} <= set(err)
    warned = [event for event in result.of("user_output") if event["logger"] == "py.warnings"]
    assert warned
    assert {event["level"] for event in warned} == {"warning"}
    assert all(event["text"].startswith("UserWarning: a warning (") for event in warned)


@SQLITE
def test_a_process_that_is_forked_has_the_signals_that_it_has_without_us(with_env: Run) -> None:
    result = with_env(
        """
import os, signal
if not os.fork():
    term, interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    print(term is signal.SIG_DFL, interrupt is signal.default_int_handler)
    os._exit(0)
os.wait()
"""
    )
    assert result.exit_code == 0
    assert texts(result) == ["True True"] * 2


@SQLITE
def test_a_process_pool_ends_as_it_does_without_us(with_env: Run) -> None:
    result = with_env(
        """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as workers:
    print(workers.map(len, ["a", "bb"]))
workers.join()
"""
    )
    assert result.exit_code == 0
    assert texts(result) == ["[1, 2]"] * 2


@SQLITE
@pytest.mark.parametrize(
    "code",
    [
        "os.close(1); os.close(2)",
        "null = os.open(os.devnull, os.O_WRONLY); os.dup2(null, 1); os.dup2(null, 2)",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout = sys.stderr = None",
        "import io; sys.stdout = sys.stderr = io.StringIO(); print('kept')",
        "sys.stdout = sys.stderr = object()",
    ],
)
def test_events_come_through_whatever_becomes_of_stdout(code: str, with_env: Run, database: Database) -> None:
    result = with_env(code)
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded")
    assert result.one("revision_executed")["revision"] == "r1"
    assert database.versions() == {"r1"}


@SQLITE
def test_a_question_gets_no_answer_instead_of_hanging(with_env: Run) -> None:
    result = with_env('input("Drop everything? ")')
    assert (result.exit_code, result.finished["exit_name"]) == (2, "config_invalid")
    assert "EOFError" in result.finished["error"]
    assert texts(result) == ["Drop everything? "]


@SQLITE
def test_a_grandchild_that_keeps_stdout_open_is_not_waited_for(database: Database, run_job: Run) -> None:
    started_at = time.monotonic()
    result = run_job("upgrade", cwd=PROJECTS / "grandchild_outlives", env=environment(database, SECONDS="30"))
    assert result.exit_code == 0
    assert time.monotonic() - started_at < 20


@SQLITE
def test_a_log_record_that_is_too_long_is_cut_and_says_so(with_env: Run) -> None:
    result = with_env("for letter in 'xé😀': logging.getLogger('app').error(letter * 100_000)")
    records = [event for event in result.of("user_output") if event["logger"] == "app"]
    assert [event["truncated"] for event in records] == [True] * 6
    assert [event["text"][0] for event in records[:3]] == ["x", "é", "😀"]
    assert all(len(event["text"].encode()) > 3000 for event in records)


@SQLITE
@pytest.mark.parametrize("letter", ["x", "é", "😀"])
def test_a_printed_line_that_is_too_long_comes_in_pieces(letter: str, with_env: Run) -> None:
    result = with_env(f"print({letter!r} * 200_000)")
    assert "".join(texts(result)) == letter * 400_000
    assert not any("truncated" in event for event in result.of("user_output"))


# --- logging ----------------------------------------------------------------------------------------

DICT_CONFIG = """
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": True,
    "formatters": {"json": {"format": '{"msg": "%(message)s"}'}},
    "handlers": {
        "out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json", "level": "INFO"},
        "file": {"class": "logging.FileHandler", "filename": "app.log", "level": "DEBUG"},
    },
    "loggers": {"alone": {"handlers": ["out", "file"], "propagate": False, "level": "DEBUG"}},
    "root": {"handlers": ["out"], "level": "WARNING"},
})
"""


@SQLITE
@pytest.mark.parametrize(
    ("configuration", "shown"),
    [
        ("", ["warning"]),
        ("logging.basicConfig(level=logging.DEBUG)", ["debug", "info", "warning"]),
        ("logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)", ["info", "warning"]),
        ("logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)", ["warning"]),
        (DICT_CONFIG, ["warning"]),
        (DICT_CONFIG.replace("True", "False").replace('"alone"', '"app"'), ["info", "warning"]),
        ("logging.getLogger().addHandler(logging.NullHandler())", []),
    ],
)
def test_a_log_record_is_one_event_as_the_configuration_wants_it(
    configuration: str, shown: list[str], with_env: Run
) -> None:
    result = with_env(
        f"{configuration}\n"
        "logger = logging.getLogger('app'); logger.disabled = False\n"
        "logger.debug('debug'); logger.info('info'); logger.warning('%s', 'warning')",
        ALEMBIC_JOB_LOG_LEVEL="debug",
    )
    assert result.exit_code == 0
    said = [event for event in result.of("user_output") if event["logger"] == "app"]
    assert [event["text"] for event in said] == shown * 2
    assert all((event["level"], event["stream"]) == (event["text"], "logging") for event in said)
    assert not [text for text in texts(result, logger=None) if "warning" in text]


@SQLITE
def test_a_file_handler_keeps_its_records(with_env: Run, tmp_path: Path) -> None:
    result = with_env(
        f"{DICT_CONFIG}\nlogging.getLogger('alone').debug('to the file alone')\nlogging.getLogger('alone').info('both')"
    )
    assert texts(result, logger="alone") == ["both"] * 2
    log = (tmp_path / "project" / "app.log").read_text()
    assert log.splitlines() == ["to the file alone", "both"] * 2


@SQLITE
def test_a_captured_warning_and_a_traceback_are_events(with_env: Run) -> None:
    result = with_env(
        """
logging.basicConfig()
logging.captureWarnings(True)
warnings.warn("captured")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("app").exception("it failed")
logging.getLogger("app").error("%d", "not a number")
"""
    )
    assert any("UserWarning: captured" in text for text in texts(result, logger="py.warnings"))
    said = [event["text"] for event in result.of("user_output") if event["logger"] == "app"]
    assert said[0].startswith("it failed\nTraceback")
    assert said[0].endswith("ZeroDivisionError: division by zero")
    assert said[1].startswith("'%d' (TypeError")


@SQLITE
def test_what_runs_at_the_end_of_the_process_runs(with_env: Run) -> None:
    result = with_env("import atexit; atexit.register(print, 'the records that Sentry still had')")
    assert result.exit_code == 0
    assert texts(result) == ["the records that Sentry still had"] * 2


@SQLITE
def test_threads_that_log_at_the_same_time_spoil_nothing(with_env: Run) -> None:
    result = with_env(
        """
def log(name):
    for number in range(200):
        logging.getLogger(name).warning("%d %s", number, name * 3000)
threads = [threading.Thread(target=log, args=(name,)) for name in "abcd"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    )
    assert result.exit_code == 0
    for name in "abcd":
        assert [line.split()[0] for line in texts(result, logger=name)] == [*map(str, range(200))] * 2


# --- order ------------------------------------------------------------------------------------------


@SQLITE
def test_what_is_printed_comes_between_the_events_where_it_was_printed(with_revision: Run) -> None:
    result = with_revision(
        """
for number in range(50):
    print("before", number, file=[sys.stdout, sys.stderr][number % 2])
    op.execute(f"INSERT INTO pears (id) VALUES ({number})")
    print("after", number, file=[sys.stdout, sys.stderr][number % 3 // 2])
""",
        ALEMBIC_JOB_LOG_LEVEL="debug",
    )
    assert result.exit_code == 0
    inside = [
        event["text"] if event["event"] == "user_output" else event["statement_number"] - 2
        for event in result.events
        if event.get("revision") == "r2" and event["event"] in ("user_output", "statement_executed")
    ]
    assert len(inside) == 152  # with Alembic's own line and the table
    for number in range(50):  # between stdout and stderr themselves there is no order
        place = inside.index(number)
        assert inside[place - 2 : place].count(f"before {number}") == 1
        assert inside[place + 1 : place + 3].count(f"after {number}") == 1


@SQLITE
def test_output_names_the_revision_that_it_came_from(with_revision: Run) -> None:
    result = with_revision("print('printed')\nimport logging; logging.getLogger('app').error('logged')")
    assert [(event["text"], event["revision"]) for event in result.of("user_output")][-2:] == [
        ("printed", "r2"),
        ("logged", "r2"),
    ]


# --- a worker that dies -----------------------------------------------------------------------------


@SQLITE
@pytest.mark.parametrize("status", [0, 3])
def test_a_process_that_leaves_in_env_py_is_internal(status: int, with_env: Run) -> None:
    result = with_env(f"print('the last words', end=''); sys.stdout.flush(); os._exit({status})")
    finished = result.finished
    assert (result.exit_code, finished["exit_name"], finished["retryable"]) == (1, "internal", True)
    assert f"os._exit({status})" in finished["error"]
    assert texts(result) == ["the last words"]


def died(result: Result, database: Database, how: str) -> None:
    """Check what is said of a worker that died in the second revision, after a statement."""
    finished = result.finished
    assert how in finished["error"]
    assert (finished["outcome"], finished["revision"]) == ("failed", "r2")
    assert "the last words" in texts(result)
    if database.dialect == "postgresql":  # all in one transaction
        assert (result.exit_code, finished["exit_name"], finished["applied"]) == (1, "internal", [])
        assert database.tables() == set()
    else:
        assert (result.exit_code, finished["exit_name"], finished["applied"]) == (41, "revision_partial", ["r1"])
        assert finished["retryable"] is False
        assert database.tables() == {"alembic_version", "apples", "pears"}


def test_a_process_that_leaves_in_a_revision_is_told_by_what_it_may_have_left(
    with_revision: Run, database: Database
) -> None:
    died(with_revision("print('the last words', end=''); sys.stdout.flush(); os._exit(3)"), database, "os._exit(3)")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_process_that_is_killed_in_a_revision_leaves_the_name_of_the_signal(
    name: str, with_revision: Run, database: Database
) -> None:
    code = f"import signal; print('the last words'); os.kill(os.getpid(), signal.{name})"
    died(with_revision(code), database, f"killed by {name}")


def test_a_process_that_is_killed_before_the_first_statement_left_nothing(
    tmp_path: Path, run_job: Run, database: Database
) -> None:
    project = make_project(tmp_path, [creates("apples", "r1"), Revision("r2", "r1", "os._exit(3)")])
    result = run_job("upgrade", cwd=project.path, env=environment(database))
    assert (result.exit_code, result.finished["revision"]) == (1, "r2")
    assert "nothing remains" in result.finished["error"]


@SQLITE
def test_a_crash_in_c_leaves_its_traceback(with_revision: Run) -> None:
    result = with_revision("import ctypes; ctypes.string_at(0)")
    assert "killed by SIGSEGV" in result.finished["error"]
    assert "Fatal Python error: Segmentation fault" in texts(result, stream="stderr")


@SQLITE
def test_a_worker_does_not_outlive_the_process_that_was_started(
    tmp_path: Path, start_job: Start, database: Database
) -> None:
    body = "print(os.getpid(), flush=True); time.sleep(60)"
    project = make_project(tmp_path, [Revision("r1", None, body)])
    job = start_job("upgrade", cwd=project.path, env=environment(database))
    worker = int(job.wait_for("user_output")["text"])
    os.kill(job.pid, signal.SIGKILL)
    job.finish(complete=False)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _runs(worker):
        time.sleep(0.02)
    assert not _runs(worker)


def _runs(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# --- how lines look ---------------------------------------------------------------------------------


def on_a_terminal(cwd: Path, database: Database, **env: str) -> str:
    """What a person sees, as it was sent to the terminal."""
    terminal, side = pty.openpty()
    data = b""
    with started(cwd, database, stdout=side, stderr=side, env={"ALEMBIC_JOB_LOG_FORMAT": "auto", **env}) as process:
        os.close(side)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and select.select([terminal], [], [], 30)[0]:
            try:
                data += os.read(terminal, PIPE)
            except OSError:  # the other side is closed
                break
        process.wait(10)
    os.close(terminal)
    return data.decode()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A project whose revision takes a moment and prints something."""
    body = "print('half way'); time.sleep(0.7)"
    revision = Revision("r1", None, body, message="a revision " + "with a long name " * 10)
    return make_project(tmp_path, [revision]).path


@SQLITE
def test_on_a_terminal_there_is_text_in_colours_and_a_live_line(slow: Path, database: Database) -> None:
    seen = on_a_terminal(slow, database)
    assert not re.search(r"^\{", seen, re.MULTILINE)
    assert re.search(r"INFO +\| half way\r\n", seen)
    assert re.search(r"\r\x1b\[K\x1b\[36m… \[1/1\] r1: a revision .*\(\d s\)\x1b\[0m", seen)
    live = re.findall(r"…[^\x1b\r]*", seen)
    assert max(map(len, live)) <= 80  # a line that wraps could not be cleared
    last = seen.rstrip().splitlines()[-1]
    assert "upgraded: 1 revision applied; the database is at r1 (exit 0" in last
    assert "…" not in last


@SQLITE
def test_errors_are_red_on_a_terminal(tmp_path: Path, database: Database) -> None:
    project = make_project(tmp_path, [Revision("r1", None, "1 / 0")])
    seen = on_a_terminal(project.path, database)
    assert re.search(r"\x1b\[31m\d\d:\d\d:\d\d ERROR   revision_failed \(exit 40\).*\x1b\[0m", seen)


@SQLITE
def test_no_color_takes_all_colours_away(tmp_path: Path, database: Database) -> None:
    project = make_project(tmp_path, [Revision("r1", None, "1 / 0")])
    seen = on_a_terminal(project.path, database, NO_COLOR="1")
    assert "revision_failed" in seen
    assert not re.search(r"\x1b\[\d*m", seen)


@SQLITE
def test_json_stays_json_on_a_terminal_when_that_is_asked_for(slow: Path, database: Database) -> None:
    seen = on_a_terminal(slow, database, ALEMBIC_JOB_LOG_FORMAT="json")
    check_lines([line.encode() + b"\n" for line in seen.splitlines()])


@SQLITE
def test_without_a_terminal_the_format_is_json(slow: Path, database: Database, run_job: Run) -> None:
    result = run_job("upgrade", cwd=slow, env=environment(database, ALEMBIC_JOB_LOG_FORMAT="auto"))
    assert (result.exit_code, result.finished["outcome"]) == (0, "upgraded")


@SQLITE
def test_text_without_a_terminal_has_neither_colours_nor_a_live_line(
    slow: Path, database: Database, run_job: Run
) -> None:
    result = run_job("upgrade", cwd=slow, env=environment(database, ALEMBIC_JOB_LOG_FORMAT="text"))
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout
    assert re.search(r"^\d\d:\d\d:\d\d INFO      \| half way$", result.stdout, re.MULTILINE)


@SQLITE
@pytest.mark.parametrize(
    ("level", "there", "missing"),
    [
        ("debug", {"statement_executed", "revision_started", "user_output"}, set()),
        ("info", {"revision_started", "user_output"}, {"statement_executed"}),
        ("warning", set(), {"statement_executed", "revision_started", "user_output"}),
        ("error", set(), {"statement_executed", "revision_started", "user_output"}),
    ],
)
def test_the_level_decides_what_is_shown_and_the_ends_always_are(
    level: str, there: set[str], missing: set[str], with_revision: Run
) -> None:
    names = with_revision("print('said')", ALEMBIC_JOB_LOG_LEVEL=level).names
    assert there <= set(names)
    assert not missing & set(names)
    assert (names[0], names[-1]) == ("run_started", "run_finished")


@SQLITE
@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ("gcp", {"time", "severity", "event"}),
        ("ecs", {"@timestamp", "log.level", "event.action", "error.message", "ecs.version"}),
        ("datadog", {"timestamp", "status", "event"}),
    ],
)
def test_lines_have_the_field_names_of_the_log_platform(fields: str, names: set[str], with_revision: Run) -> None:
    result = with_revision("1 / 0", ALEMBIC_JOB_LOG_FIELDS=fields)
    assert result.exit_code == 41
    assert names <= result.finished.keys()
    assert not ({"time", "level", "event", "error"} - names - {"error"}) & result.finished.keys()
    assert all(names - {"error.message"} <= event.keys() for event in result.events)
