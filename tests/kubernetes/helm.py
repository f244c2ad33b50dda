"""The real helm 3 and 4 with the chart of this checkout."""

from __future__ import annotations

import functools
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.chart import CHART
from tests.kubernetes.tools import BIN

HELMS = ("helm3", "helm4")
MODES = ("hook", "job", "argocd", "flux")
Values = Mapping[str, Any]
Document = dict[str, Any]
# What nobody can do without.
NEEDED: Values = {
    "image": {"repository": "registry.example.com/bookshop-migrate", "tag": "1.4.2"},
    "database": {"existingSecret": "bookshop-database"},
}


def run(helm: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    command = [str(BIN / helm), *arguments]
    assert (BIN / helm).exists(), f"{BIN / helm} is missing: python -m tests.kubernetes.tools puts it there"
    return subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True, timeout=60)


def _with_values(helm: str, command: tuple[str, ...], values: Values) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        return run(helm, *command, "--values", file.name)


@functools.cache
def _rendered(helm: str, command: tuple[str, ...], values: str) -> str:
    done = _with_values(helm, command, json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def template(
    helm: str, values: Values, *options: str, release: str = "bookshop", chart: Path = CHART
) -> list[Document]:
    """What would be applied."""
    command = ("template", release, str(chart), "--namespace", "shop", *options)
    documents = list(yaml.safe_load_all(_rendered(helm, command, json.dumps(values))))
    return [document for document in documents if document]


def refused(helm: str, values: Values, *options: str, chart: Path = CHART) -> str:
    """What helm says instead of rendering, in one line."""
    done = _with_values(helm, ("template", "bookshop", str(chart), *options), values)
    assert done.returncode != 0, done.stdout
    assert not done.stdout.strip()
    return " ".join(done.stderr.split())


def needed(**more: Any) -> dict[str, Any]:
    """NEEDED with more; maps are joined."""
    return joined(NEEDED, more)


def joined(values: Values, more: Values) -> dict[str, Any]:
    """Both, the later before the earlier."""
    both = dict(values)
    for key, value in more.items():
        both[key] = joined(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def one(documents: list[Document], kind: str) -> Document:
    """The only one of its kind."""
    [found] = [document for document in documents if document["kind"] == kind]
    return found


def pod_of(workload: Document) -> Document:
    """What its pod is made of."""
    spec: Document = workload["spec"]
    return spec.get("template", {}).get("spec", spec)


def container(workload: Document) -> Document:
    """The only container of a Job or a Pod."""
    [found] = pod_of(workload)["containers"]
    return found


def variables(of: Document) -> dict[str, Any]:
    """The variables of a container, by name: the value, or where it comes from."""
    return {env["name"]: env.get("value", env.get("valueFrom")) for env in of["env"]}


def secret_of(workload: Document) -> Document:
    """The Secret that is mounted in its pod."""
    [found] = [volume["secret"] for volume in pod_of(workload)["volumes"] if "secret" in volume]
    return found


def keys_of(container: Document) -> set[str]:
    """The keys of the Secret that a container reads, as files or as variables."""
    read = list(variables(container).values())
    files = {value.rpartition("/")[2] for value in read if str(value).startswith("/run/secrets/database/")}
    return files | {value["secretKeyRef"]["key"] for value in read if "secretKeyRef" in value}
