"""Random revision histories: branches, merges, dependencies, labels, several bases."""

from __future__ import annotations

import random

from tests.job import Revision


def random_history(chance: random.Random, size: int) -> list[Revision]:
    """Make revisions ``a0``, ``a1``, …; each creates a table of its own and drops it again.

    What a revision follows or depends on never contains another of it: Alembic itself fails at a
    dependency on an ancestor (KeyError while it moves the version, in 1.8 and in 1.20).
    """
    made: list[Revision] = []
    before: dict[str, set[str]] = {}  # all that a revision contains, itself included

    def some(wanted: int, besides: set[str]) -> tuple[str, ...]:
        """Choose revisions of which none contains another, and none is in ``besides``."""
        found: list[str] = []
        for one in chance.sample(list(before), len(before)):
            apart = not any(one in before[other] or other in before[one] for other in found)
            if len(found) < wanted and apart and one not in besides:
                found.append(one)
        return tuple(found)

    for number in range(size):
        name = f"a{number}"
        inner = {one for all_ in before.values() for one in all_ if before[one] != all_}
        parents: tuple[str, ...] = ()
        if made and chance.random() < 0.9:  # else a base; mostly at a head, sometimes a branch
            parents = some(chance.choice((1, 1, 1, 2, 3)), set() if chance.random() < 0.25 else inner)
        contained = {one for parent in parents for one in before[parent]}
        depends: tuple[str, ...] = ()
        if chance.random() < 0.25:
            above = {one for one in before if before[one] & set(parents)}
            depends = some(chance.choice((1, 1, 2)), contained | above)
        contained |= {one for other in depends for one in before[other]}
        before[name] = contained | {name}
        made.append(
            Revision(
                name,
                None if not parents else parents[0] if len(parents) == 1 else parents,
                upgrade=f'op.create_table("t_{name}", sa.Column("id", sa.Integer, primary_key=True))',
                downgrade=f'op.drop_table("t_{name}")',
                depends_on=depends or None,
                labels=(f"label{number}",) if chance.random() < 0.15 else None,
            )
        )
    return made


def random_targets(chance: random.Random, revisions: list[Revision]) -> tuple[str, ...]:
    """Name what to go to: all heads, some revisions, or one at the end of a branch."""
    kind = chance.random()
    if kind < 0.3:
        return ("heads",)
    labelled = [one.labels[0] for one in revisions if isinstance(one.labels, tuple)]
    if kind < 0.5 and labelled:
        return (f"{chance.choice(labelled)}@head",)
    return tuple(one.id for one in chance.sample(revisions, min(len(revisions), chance.choice((1, 1, 2)))))
