"""Parsed manifests as the checks look at them: objects, their pods, and the containers that run this program."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.cli import parser
from runner.errors import SettingsInvalid
from runner.settings import FIELDS, PREFIX, variable

TEMPLATED = ("Job", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


@dataclass(frozen=True)
class Object:
    """One document."""

    document: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.document.get("kind"))

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.document.get("metadata") or {}

    @property
    def name(self) -> str:
        return str(self.metadata.get("name"))

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.get("annotations") or {}

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.document.get("spec") or {}

    @property
    def pod(self) -> Pod | None:
        """The pod that it is, or makes."""
        if self.kind == "Pod":
            return Pod(self, self.document)
        return Pod(self, self.spec.get("template") or {}) if self.kind in TEMPLATED else None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Pod:
    """A pod, or the template of one."""

    owner: Object
    template: Mapping[str, Any]

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.template.get("spec") or {}

    @property
    def labels(self) -> Mapping[str, str]:
        return (self.template.get("metadata") or {}).get("labels") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return (self.template.get("metadata") or {}).get("annotations") or {}

    @property
    def security(self) -> Mapping[str, Any]:
        return self.spec.get("securityContext") or {}

    @property
    def volumes(self) -> list[Mapping[str, Any]]:
        return self.spec.get("volumes") or []

    @property
    def init(self) -> list[Container]:
        return [Container(self, spec) for spec in self.spec.get("initContainers") or []]

    @property
    def containers(self) -> list[Container]:
        """All of them, those that come first too."""
        return [*self.init, *(Container(self, spec) for spec in self.spec.get("containers") or [])]

    @property
    def ours(self) -> list[Container]:
        return [container for container in self.containers if container.ours]

    @property
    def migrating(self) -> list[Container]:
        return [container for container in self.ours if container.command == "upgrade"]


@dataclass(frozen=True)
class Container:
    """A container; *ours* is one that has a setting of the program."""

    pod: Pod
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.spec.get("name"))

    @property
    def env(self) -> list[Mapping[str, Any]]:
        return self.spec.get("env") or []

    @property
    def security(self) -> Mapping[str, Any]:
        return self.spec.get("securityContext") or {}

    @property
    def mounts(self) -> list[Mapping[str, Any]]:
        return self.spec.get("volumeMounts") or []

    @property
    def ours(self) -> bool:
        return any(str(env.get("name")).startswith(PREFIX) for env in self.env)

    @property
    def arguments(self) -> list[str]:
        return [str(word) for word in [*(self.spec.get("command") or [])[1:], *(self.spec.get("args") or [])]]

    @property
    def options(self) -> Mapping[str, Any]:
        """What its arguments say to the program. Raises SettingsInvalid when it refuses them."""
        return _parsed(tuple(self.arguments))

    @property
    def command(self) -> str:
        try:
            return self.options.get("command") or "upgrade"
        except SettingsInvalid:
            return "refused"

    def value(self, field: str) -> Any:
        """A setting as the program will have it; the text, where that is no valid one."""
        text = next((env.get("value") for env in self.env if env.get("name") == variable(field)), None)
        if self.command != "refused":
            text = self.options.get(field) or text
        return FIELDS[field].default if text in (None, "") else text

    def __str__(self) -> str:
        return f"{self.pod.owner}, container {self.name}"


_parser = functools.cache(parser)


@functools.cache
def _parsed(arguments: tuple[str, ...]) -> Mapping[str, Any]:
    return vars(_parser().parse_args(arguments))


def objects(documents: Iterable[Mapping[str, Any] | None]) -> list[Object]:
    """The documents that say something, those in a List too."""
    return list(_objects(documents))


def _objects(documents: Iterable[Mapping[str, Any] | None]) -> Iterator[Object]:
    for document in documents:
        if document and document.get("kind") == "List":
            yield from _objects(document.get("items") or [])
        elif document:
            yield Object(document)


def pods(every: Iterable[Object]) -> list[Pod]:
    return [found for each in every if (found := each.pod)]
