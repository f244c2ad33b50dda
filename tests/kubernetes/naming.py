"""Names that the API server takes, and selectors that find what is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.kubernetes.objects import Object, Pod
from tests.kubernetes.running import tag

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(rf"{LABEL.pattern}(\.{LABEL.pattern})*")
VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LABEL_LENGTH, SUBDOMAIN_LENGTH = 63, 253
SELECTING = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


def faults(every: Iterable[Object]) -> Iterator[str]:
    everything = list(every)
    for each in everything:
        yield from (f"{each}: {fault}" for fault in _names(each))
        yield from (f"{each}: {fault}" for fault in _labels(each))
        yield from (f"{each}: {fault}" for fault in _selects(each, everything))
    seen: set[tuple[str, str, str]] = set()
    for each in everything:
        key = (each.kind, str(each.metadata.get("namespace")), each.name)
        if key in seen:
            yield f"{each}: there are two of this name"
        seen.add(key)


def unnamed_by_tag(every: Iterable[Object]) -> Iterator[str]:
    """A Job cannot be changed: unless its name carries the image's tag, the next image is refused."""
    for job in every:
        for container in job.pod.migrating if job.kind == "Job" and job.pod else ():
            image = str(container.spec.get("image"))
            endings = {tag(image), re.sub(r"[^a-z0-9]+", "-", tag(image).lower())}
            if not tag(image) or not job.name.endswith(tuple(f"-{ending}" for ending in endings)):
                yield f"{job}: its name does not end in the tag of {image}"


def _names(each: Object) -> Iterator[str]:
    # A Job's name is a label of its pods; dots in it are allowed, and kubectl warns of them.
    short = each.kind in ("Job", "Pod", "Service", "StatefulSet")
    pattern = LABEL if each.kind == "Service" else SUBDOMAIN
    limit = LABEL_LENGTH if short else SUBDOMAIN_LENGTH
    if not pattern.fullmatch(each.name):
        yield "the name has to be of lower-case letters, digits and hyphens"
    if len(each.name) > limit:
        yield f"the name has {len(each.name)} characters, of {limit}"
    for container in each.pod.containers if each.pod else ():
        if not LABEL.fullmatch(container.name) or len(container.name) > LABEL_LENGTH:
            yield f"container {container.name!r}: no name for one"
    names = [container.name for container in each.pod.containers] if each.pod else []
    if len(set(names)) < len(names):
        yield "two containers have one name"


def _labels(each: Object) -> Iterator[str]:
    for labels in (each.metadata.get("labels") or {}, each.pod.labels if each.pod else {}):
        for key, value in labels.items():
            if not isinstance(value, str) or len(value) > LABEL_LENGTH or not VALUE.fullmatch(value):
                yield f"label {key}: {value!r} is no value of a label"


def _selects(each: Object, everything: list[Object]) -> Iterator[str]:
    if each.kind in SELECTING:
        selector = each.spec.get("selector") or {}
        if not selector.get("matchLabels"):
            yield "no matchLabels in its selector"
        elif not each.pod or not _finds(selector["matchLabels"], each.pod):
            yield "its selector does not match the labels of its template"
    if each.kind in SELECTING or each.kind in ("Service", "PodDisruptionBudget"):
        selector = each.spec.get("selector") or {}
        labels: Mapping[str, Any] = selector if each.kind == "Service" else selector.get("matchLabels") or {}
        found = [other for other in everything if labels and other.pod and _finds(labels, other.pod)]
        if labels and not found:
            yield "its selector finds no pod"
        for other in found:
            if other.kind in ("Job", "Pod") and other.pod and other.pod.ours:
                yield f"its selector finds the pods of {other}, too"


def _finds(labels: Mapping[str, Any], pod: Pod) -> bool:
    return labels.items() <= pod.labels.items()
