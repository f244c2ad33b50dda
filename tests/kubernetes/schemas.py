"""Kubernetes' own schemas, strict, of each version from 1.27: by kubernetes-validate, whose files are read once."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from kubernetes_validate import ValidationError, utils

from tests.kubernetes.objects import objects

OLDEST = (1, 27)
# Without the patch; it lists each twice, for it has a lax and a strict schema.
_ALL = {(int(major), int(minor)) for major, minor, *_ in (version.split(".") for version in utils.all_versions())}
VERSIONS = [f"{major}.{minor}" for major, minor in sorted(_ALL) if (major, minor) >= OLDEST]

# It reads some megabytes of JSON again for each object.
utils.schema_contents = functools.cache(utils.schema_contents)


def faults(documents: Iterable[Mapping[str, Any] | None], version: str) -> list[str]:
    """What this version would refuse. Raises SchemaNotFoundError for a kind that is not Kubernetes' own."""
    found = []
    for each in objects(documents):
        try:
            utils.validate(dict(each.document), version, strict=True)
        except ValidationError as error:
            found.append(f"{each}: {'.'.join(map(str, error.path))}: {error.message}")
    return found
