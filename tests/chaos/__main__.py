"""``python -m tests.chaos --database mariadb --rounds 200 --seed 1``; ``--help`` tells the rest."""

from __future__ import annotations

import argparse
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.chaos.faults import ABOUT, FAULTS
from tests.chaos.page import paste
from tests.chaos.story import Lane, Outcome, Suite
from tests.chaos.verdict import INVARIANTS


def main() -> int:
    """Run the rounds, print the tables; 1 when an invariant is broken or a fault never fired."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=sorted(FAULTS), required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="this round alone, as often as --rounds says")
    parser.add_argument("--lanes", type=int, default=3, help="rounds at the same time, each with a server of its own")
    parser.add_argument("--lock", help="ALEMBIC_JOB_LOCK; with 'none' the suite must fail")
    parser.add_argument("--markdown", type=Path, help="put the result into this page")
    parser.add_argument("--keep", type=Path, default=Path(".chaos"), help="where rounds that failed are kept")
    options = parser.parse_args()
    suite = Suite(options.database, options.seed, options.keep, options.lock)
    numbers = list(range(options.rounds)) if options.only is None else [options.only] * options.rounds
    began = time.monotonic()
    crashed = _run(suite, numbers, min(options.lanes, len(numbers)))
    text = tables(suite, time.monotonic() - began)
    print(text)
    if options.markdown:
        paste(options.markdown, suite.dialect, text)
    never = [] if options.only is not None else [kind for kind in FAULTS[suite.dialect] if not _fired(suite)[kind]]
    for kind in never:
        print(f"'{kind}' never happened.")
    return 1 if crashed or never or any(outcome.verdict.broken for outcome in suite.outcomes) else 0


def _run(suite: Suite, numbers: list[int], lanes: int) -> bool:
    """All rounds, on several lanes; whether one could not be run at all."""
    left, lock, crashed = list(reversed(numbers)), threading.Lock(), threading.Event()

    def work() -> None:
        lane = Lane.open(suite.dialect)
        try:
            while not crashed.is_set():
                with lock:
                    if not left:
                        return
                    number = left.pop()
                outcome = suite.round(lane, number)
                with lock:
                    suite.outcomes.append(outcome)
                    _tell(suite, outcome)
        except BaseException:
            crashed.set()
            traceback.print_exc()
        finally:
            lane.close()

    threads = [threading.Thread(target=work) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return crashed.is_set()


def _tell(suite: Suite, outcome: Outcome) -> None:
    codes = ", ".join(f"{code} ({count})" for code, count in sorted(outcome.codes.items()))
    half = f"; half done: {', '.join(outcome.verdict.half_done)}" if outcome.verdict.half_done else ""
    happened = ", ".join(kind for kind, count in outcome.fired.items() if count) or "no fault"
    print(f"round {outcome.number}: {outcome.seconds:.1f} s; {happened}; ended with {codes}{half}", flush=True)
    for invariant, how in outcome.verdict.broken.items():
        for one in how:
            print(f"  BROKEN, {INVARIANTS[invariant]}: {one}")
    if outcome.verdict.broken:
        command = f"python -m tests.chaos --database {suite.dialect} --seed {suite.seed} --only {outcome.number}"
        print(f"  {outcome.folder} has it all; again: {command} --rounds 5", flush=True)


def _fired(suite: Suite) -> Counter[str]:
    return sum((outcome.fired for outcome in suite.outcomes), Counter())


def tables(suite: Suite, seconds: float) -> str:
    """The result, in Markdown."""
    outcomes, fired = suite.outcomes, _fired(suite)
    codes: Counter[str] = sum((outcome.codes for outcome in outcomes), Counter())
    half = sum(len(outcome.verdict.half_done) for outcome in outcomes)
    resumed = sum(outcome.resumed for outcome in outcomes)
    lines = [
        f"`make chaos DATABASE={suite.dialect} ROUNDS={len(outcomes)} SEED={suite.seed}`: {len(outcomes)} rounds with"
        f" {sum(codes.values())} runs in {seconds:.0f} s; revisions gone on with: {resumed},"
        f" left to resolve: {half}.",
        "",
        "Ended with: " + ", ".join(f"{code} ({count})" for code, count in sorted(codes.items())) + ".",
        "",
        "| fault | happened |",
        "| --- | --- |",
        *(f"| {kind}: {ABOUT[kind]} | {fired[kind]} |" for kind in FAULTS[suite.dialect]),
        "",
        "| invariant | rounds that broke it |",
        "| --- | --- |",
        *(
            f"| {text} | {sum(name in outcome.verdict.broken for outcome in outcomes)} of {len(outcomes)} |"
            for name, text in INVARIANTS.items()
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
