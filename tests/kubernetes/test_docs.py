"""The manifests, values and commands of README and docs: what the real tools and Kubernetes' own schemas say."""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes import checks, helm, schemas
from tests.kubernetes.tools import BIN

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "k8s").rglob("*.md"))]
_BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of controllers that are not Kubernetes' own, and have no schema here.
FOREIGN = {"argoproj.io", "kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io"}


@dataclass(frozen=True)
class Block:
    """An example on a page."""

    page: str
    title: str | None
    language: str
    text: str

    def __str__(self) -> str:
        return self.page


BLOCKS = [Block(page.name, *found) for page in PAGES for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def manifests() -> Iterator[tuple[Block, dict[str, Any]]]:
    for block in BLOCKS:
        if block.language == "yaml" and re.search(r"^apiVersion: ", block.text, re.MULTILINE):
            for document in yaml.safe_load_all(block.text):
                yield block, document


def group(document: dict[str, Any]) -> str:
    return str(document["apiVersion"].rpartition("/")[0])


OWN = [(block, document) for block, document in manifests() if group(document) not in FOREIGN]
VALUES = [(block, yaml.safe_load(block.text)) for block in BLOCKS if block.title == "values"]


def values_in(document: dict[str, Any]) -> dict[str, Any] | None:
    """The chart's values that an Application or a HelmRelease carries."""
    spec = document.get("spec", {})
    found: dict[str, Any] | None = spec.get("values") or spec.get("source", {}).get("helm", {}).get("valuesObject")
    return found


IN_OTHERS = [(block, values) for block, document in manifests() if (values := values_in(document))]


def has_native_sidecar(document: dict[str, Any]) -> bool:
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    return any("restartPolicy" in container for container in pod.get("initContainers", []))


def named(value: Any) -> str:
    return str(value["kind"] if isinstance(value, dict) and "kind" in value else value)[:60]


@pytest.mark.parametrize("version", schemas.VERSIONS)
@pytest.mark.parametrize(("block", "document"), OWN, ids=named)
def test_a_manifest_of_the_docs_is_one(block: Block, document: dict[str, Any], version: str) -> None:
    faults = schemas.faults([document], version)
    unknown = has_native_sidecar(document) and version == "1.27"  # the page says since when
    assert (faults != []) == unknown, faults


def test_there_are_manifests_in_the_docs() -> None:
    assert {document["kind"] for _, document in OWN} >= {"Job", "Secret"}
    assert {group(document) for _, document in manifests()} >= FOREIGN


@pytest.mark.parametrize("tool", helm.HELMS)
@pytest.mark.parametrize(
    ("block", "values"), [*VALUES, *((block, values["alembic-job"]) for block, values in IN_OTHERS)], ids=named
)
def test_the_values_of_the_docs_make_a_job_without_faults(block: Block, values: dict[str, Any], tool: str) -> None:
    documents = helm.template(tool, values)
    assert checks.faults(documents) == []
    assert helm.one(documents, "Job")


def test_there_are_values_in_the_docs() -> None:
    modes = {values["mode"] for _, values in VALUES} | {values["alembic-job"]["mode"] for _, values in IN_OTHERS}
    assert modes == set(helm.MODES)


# --- commands -----------------------------------------------------------------------------------------


def commands(*tools: str) -> list[list[str]]:
    """The command lines of the docs that begin with one of the tools, word by word."""
    found = []
    for block in BLOCKS:
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] in tools:
                    found.append(words)
    return found


@functools.cache
def known_flags(tool: str, *subcommand: str) -> frozenset[str]:
    helps = [(tool, *subcommand, "--help"), (tool, "options") if tool == "kubectl" else (tool, "--help")]
    said = ""
    for program, *rest in helps:
        said += subprocess.run([str(BIN / program), *rest], capture_output=True, text=True, check=True).stdout
    return frozenset(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", said))


def subcommand(words: list[str]) -> list[str]:
    """``create secret generic`` of kubectl, else one word."""
    return words[1:4] if words[1] == "create" else words[1:2]


def flags_of(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}


@pytest.mark.parametrize("words", commands("kubectl"), ids=" ".join)
def test_kubectl_knows_the_options_of_the_docs(words: list[str]) -> None:
    assert flags_of(words) <= known_flags("kubectl", *subcommand(words))


@pytest.mark.parametrize("tool", helm.HELMS)
@pytest.mark.parametrize("words", commands("helm"), ids=" ".join)
def test_helm_knows_the_options_of_the_docs(words: list[str], tool: str) -> None:
    assert flags_of(words) <= known_flags(tool, *subcommand(words))


def test_an_option_that_is_misspelt_is_seen() -> None:
    assert not flags_of(["--templat=x"]) <= known_flags("kubectl", "get")


def test_the_termination_message_is_found_by_the_path_of_the_docs(tmp_path: Path) -> None:
    [path] = {
        word.partition("=")[2].strip("'")
        for words in commands("kubectl")
        for word in words
        if word.startswith("--output=jsonpath=")
    }
    message = json.dumps({"error": "what happened", "hint": "what to do"})
    terminated = {"state": {"terminated": {"exitCode": 41, "message": message}}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "mesh", "image": "m"}, {"name": "migrate", "image": "i"}]},
        "status": {"containerStatuses": [{"name": "mesh"}, {"name": "migrate", **terminated}]},
    }
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    # The one way to have an expression evaluated without an API server.
    command = ["annotate", "--local", "--filename", str(tmp_path / "pod.json"), "a=b", f"--output={path}"]
    done = subprocess.run([str(BIN / "kubectl"), *command], capture_output=True, text=True, check=True)
    assert done.stdout == message
