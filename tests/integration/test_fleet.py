"""A fleet of waiting runs; ``make fleet`` is the large one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_of_sixty_runs_that_find_room_for_twenty_five_one_migrates_and_all_others_leave_soon_after_it() -> None:
    # A process of its own, because it forks: the tests have threads.
    command = [sys.executable, "-m", "tests.chaos.fleet", "--waiters", "60", "--max-connections", "25", "--json"]
    done = subprocess.run(
        [*command, "--seconds", "1"], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-5000:]
    seen = json.loads(done.stdout)
    assert seen["outcomes"] == {"upgraded": 1, "up_to_date": 60}
    assert seen["refused"] > 0, "there was room for all of them, so this tested nothing"
    assert seen["left_last_s"] < 5
    assert seen["connections_while_waiting"] < 25
