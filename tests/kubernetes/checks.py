"""What is wrong with manifests that a schema cannot see.

``faults`` takes what is applied together, parsed, and answers with sentences. A container counts as the program's when
it has one of its settings; of the others only Pod Security is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.kubernetes import failure_policy, hooks, naming, pod_security, running
from tests.kubernetes.failure_policy import CODES
from tests.kubernetes.objects import objects, pods

__all__ = ["CODES", "faults", "unnamed_by_tag"]


def faults(documents: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """What is wrong, each in a sentence; nothing when they are sound."""
    every = objects(documents)
    return [
        *naming.faults(every),
        *failure_policy.faults(every),
        *running.faults(every),
        *pod_security.faults(pods(every)),
        *hooks.faults(every),
    ]


def unnamed_by_tag(documents: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """The Jobs whose names do not carry the image's tag: of manifests that are applied again and again."""
    return list(naming.unnamed_by_tag(objects(documents)))
