"""The chaos suite finds what it is for. Its own rounds are run by ``make chaos``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chaos.verdict import INVARIANTS

ROOT = Path(__file__).parents[2]


def test_runs_that_take_no_lock_fail_it(tmp_path: Path) -> None:
    # A process of its own, because it forks: the tests have threads.
    command = [sys.executable, "-m", "tests.chaos", "--database", "sqlite", "--keep", str(tmp_path)]
    command += ["--rounds", "4", "--lanes", "2", "--lock", "none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"BROKEN, {INVARIANTS['alone']}" in done.stdout
    assert list(tmp_path.glob("*/record")), "what such a round left is not kept"
