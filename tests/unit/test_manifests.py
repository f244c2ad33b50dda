"""The manifests in k8s/ against the code that they name: exit codes and settings. No tool is needed for that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.errors import ExitCode
from tests.kubernetes import checks, generate

K8S = generate.MANIFESTS
# What is applied as it is; templates and what Kustomize reads are rendered first, in tests/kubernetes.
PLAIN = sorted(K8S.glob("*.yaml"))
GENERATED = list(generate.files())


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def named(path: Path) -> str:
    return str(path.relative_to(K8S))


@pytest.mark.parametrize("path", PLAIN, ids=named)
def test_a_manifest_has_no_fault(path: Path) -> None:
    assert checks.faults(documents(path)) == []


@pytest.mark.parametrize("path", PLAIN, ids=named)
def test_the_next_image_makes_a_new_job(path: Path) -> None:
    assert checks.unnamed_by_tag(documents(path)) == []


@pytest.mark.parametrize("path", GENERATED, ids=named)
def test_the_codes_in_the_files_are_those_that_no_retry_can_help(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert generate.generated(text) == text, "python -m tests.kubernetes.generate --write"


def test_every_manifest_with_a_job_has_its_codes_generated() -> None:
    with_a_job = [path for path in K8S.rglob("*.yaml") if "kind: Job\n" in path.read_text(encoding="utf-8")]
    assert K8S / "job.yaml" in GENERATED
    assert {path for path in with_a_job if "podFailurePolicy" in path.read_text(encoding="utf-8")} <= set(GENERATED)


def test_stale_codes_are_found_and_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = (K8S / "job.yaml").read_text(encoding="utf-8")
    stale = tmp_path / "job.yaml"
    stale.write_text(sound.replace(str(checks.CODES), "[2, 99]"), encoding="utf-8")
    monkeypatch.setattr(generate, "MANIFESTS", tmp_path)
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert "job.yaml" in (generate.main([]) or "")
    assert generate.main(["--write"]) is None
    assert stale.read_text(encoding="utf-8") == sound


def test_a_rule_that_has_no_place_for_its_codes_is_an_error() -> None:
    with pytest.raises(ValueError, match="onExitCodes"):
        generate.generated("onExitCodes:\n  operator: In\n  values:\n    - 2\n")


def test_the_codes_are_those_of_the_table_and_no_answer() -> None:
    assert checks.CODES == [2, 11, 12, 13, 30, 31, 32, 33, 34, 35, 36, 40, 41, 42, 44, 45]
    assert not {ExitCode.PENDING, ExitCode.DRIFT, ExitCode.FINDINGS} & set(checks.CODES)


def test_three_values_of_the_job_are_to_be_changed_and_each_stands_in_one_place() -> None:
    text = re.sub(r"\s#.*", "", (K8S / "job.yaml").read_text(encoding="utf-8"))
    assert re.findall(r"\S*bookshop\S*", text) == [
        "bookshop-migrate-1-4-2",
        "registry.example.com/bookshop-migrate:1.4.2",
        "bookshop-database",
    ]
    assert text.count("1.4.2") == 1


def test_with_three_values_changed_it_is_the_job_of_another_project() -> None:
    text = (K8S / "job.yaml").read_text(encoding="utf-8")
    for ours, theirs in (
        ("bookshop-migrate-1-4-2", "till-migrate-3f2c9e1"),
        ("registry.example.com/bookshop-migrate:1.4.2", "ghcr.io/acme/till:3f2c9e1"),
        ("bookshop-database", "till"),
    ):
        text = text.replace(ours, theirs)
    theirs = [yaml.safe_load(text)]
    assert (checks.faults(theirs), checks.unnamed_by_tag(theirs)) == ([], [])
    assert "bookshop" not in yaml.safe_dump(theirs)


def test_the_job_beside_the_deployment_is_the_same_as_the_one_alone() -> None:
    assert documents(K8S / "deployment-init.yaml")[0] == documents(K8S / "job.yaml")[0]


def test_kustomizes_job_is_the_same_save_for_what_the_overlays_give() -> None:
    [job], [base] = documents(K8S / "job.yaml"), documents(K8S / "kustomize" / "base" / "job.yaml")
    [container] = job["spec"]["template"]["spec"]["containers"]
    [image] = [env for env in container["env"] if env["name"] == "ALEMBIC_JOB_IMAGE"]
    job["metadata"]["name"] = container["image"] = image["value"] = "bookshop-migrate"
    assert base == job


def test_who_waits_has_the_image_of_the_job_that_it_waits_for() -> None:
    job, deployment = documents(K8S / "deployment-init.yaml")
    [migrates] = job["spec"]["template"]["spec"]["containers"]
    [waits] = deployment["spec"]["template"]["spec"]["initContainers"]
    assert (waits["image"], waits["args"]) == (migrates["image"], ["wait"])
