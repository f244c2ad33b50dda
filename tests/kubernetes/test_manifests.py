"""The manifests as the tools see them: Kustomize's rendering, and the schemas of each version of Kubernetes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.job import linear, make_project, run_job
from tests.kubernetes import checks, kustomize, schemas
from tests.kubernetes.generate import MANIFESTS

KUSTOMIZE = MANIFESTS / "kustomize"
OVERLAYS = sorted((KUSTOMIZE / "overlays").iterdir())
PLAIN = sorted(MANIFESTS.glob("*.yaml"))

Documents = list[dict[str, Any]]


def named(path: Path) -> str:
    return str(path.relative_to(MANIFESTS))


def read(path: Path) -> Documents:
    return kustomize.rendered(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def container(job: dict[str, Any]) -> dict[str, Any]:
    [only] = job["spec"]["template"]["spec"]["containers"]
    return only


def environment(of: dict[str, Any]) -> dict[str, str]:
    return {env["name"]: env["value"] for env in of["env"] if "value" in env}


@pytest.mark.parametrize("path", [*PLAIN, *OVERLAYS], ids=named)
def test_every_version_of_kubernetes_takes_it(path: Path) -> None:
    documents = read(path)
    assert {version: found for version in schemas.VERSIONS if (found := schemas.faults(documents, version))} == {}


def test_the_versions_are_all_of_them_from_1_27() -> None:
    assert schemas.VERSIONS[:11] == [f"1.{minor}" for minor in range(27, 38)]


def test_the_schemas_are_strict() -> None:
    [job] = read(MANIFESTS / "job.yaml")
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    [fault] = schemas.faults([job], "1.32")
    assert "'backofLimit' was unexpected" in fault


@pytest.mark.parametrize("kubectl", kustomize.KUBECTLS)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=named)
def test_an_overlay_has_no_fault_and_a_name_that_carries_the_tag(overlay: Path, kubectl: str) -> None:
    documents = kustomize.rendered(overlay, kubectl)
    assert checks.faults(documents) == []
    assert checks.unnamed_by_tag(documents) == []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=named)
def test_an_overlay_has_its_own_image_secret_and_namespace_in_every_place(overlay: Path) -> None:
    said = yaml.safe_load((overlay / "kustomization.yaml").read_text(encoding="utf-8"))
    [job] = read(overlay)
    [image] = said["images"]
    whole = f"{image['newName']}:{image['newTag']}"
    assert (container(job)["image"], environment(container(job))["ALEMBIC_JOB_IMAGE"]) == (whole, whole)
    assert job["metadata"]["name"] == f"bookshop-migrate-{image['newTag']}"
    assert job["metadata"]["namespace"] == f"bookshop-{overlay.name}"
    [secret] = [volume["secret"] for volume in job["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    assert secret == {"secretName": f"bookshop-database-{overlay.name}", "defaultMode": 0o440, "optional": True}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The whole of k8s/kustomize, to change it as a user would."""
    return Path(shutil.copytree(KUSTOMIZE, tmp_path / "kustomize"))


def replaced(file: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, file.read_text(encoding="utf-8"))
    assert count, f"no {pattern} in {file}"
    file.write_text(text, encoding="utf-8")


def test_a_new_tag_in_one_place_makes_a_new_job_with_the_same_template(copied: Path) -> None:
    overlay = copied / "overlays" / "production"
    [before] = kustomize.rendered(overlay)
    replaced(overlay / "kustomization.yaml", "newTag: .*", "newTag: 1.4.3")
    [after] = kustomize.rendered(overlay)
    assert (before["metadata"]["name"], after["metadata"]["name"]) == (
        "bookshop-migrate-1.4.2",
        "bookshop-migrate-1.4.3",
    )
    assert yaml.safe_dump(before).replace("1.4.2", "1.4.3") == yaml.safe_dump(after)


def test_a_tag_that_looks_like_a_number_stays_a_text(copied: Path) -> None:
    overlay = copied / "overlays" / "production"
    replaced(overlay / "kustomization.yaml", "newTag: .*", 'newTag: "1234567"')
    documents = kustomize.rendered(overlay)
    assert documents[0]["metadata"]["name"] == "bookshop-migrate-1234567"
    assert checks.faults(documents) == []
    assert schemas.faults(documents, schemas.VERSIONS[-1]) == []


def test_the_registry_may_have_a_port_when_the_transformer_is_told(copied: Path) -> None:
    overlay = copied / "overlays" / "production"
    replaced(overlay / "kustomization.yaml", "newName: .*", "newName: localhost:5000/bookshop-migrate")
    assert checks.unnamed_by_tag(kustomize.rendered(overlay)) != []
    replaced(copied / "named-by-tag" / "transformers.yaml", "index: 1", "index: 2")
    documents = kustomize.rendered(overlay)
    assert (checks.faults(documents), checks.unnamed_by_tag(documents)) == ([], [])
    assert documents[0]["metadata"]["name"] == "bookshop-migrate-1.4.2"


def test_an_overlay_without_a_tag_is_refused_and_not_applied_under_the_old_name(copied: Path) -> None:
    overlay = copied / "overlays" / "production"
    replaced(overlay / "kustomization.yaml", " *newTag: .*\n", "")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kustomize.rendered(overlay)
    assert "out of bounds" in refused.value.stderr


def test_a_prefix_of_an_overlay_stays_before_the_name(copied: Path) -> None:
    overlay = copied / "overlays" / "production"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("namePrefix: eu-\n")
    documents = kustomize.rendered(overlay)
    assert documents[0]["metadata"]["name"] == "eu-bookshop-migrate-1.4.2"
    assert checks.faults(documents) == []


def test_the_job_runs_with_the_settings_of_the_manifest(tmp_path: Path) -> None:
    """Its variables and arguments, with the file where this machine can have it."""
    [job] = read(MANIFESTS / "job.yaml")
    secret = tmp_path / "secret" / "url"
    secret.parent.mkdir()
    secret.write_text(f"sqlite:///{tmp_path / 'app.db'}\n")
    env = {**environment(container(job)), "ALEMBIC_JOB_DATABASE_URL_FILE": str(secret)}
    project = make_project(tmp_path, linear(2))
    ran = run_job(
        *container(job).get("args", ()), cwd=project.path, env={**env, "POD_NAME": "migrate-x", "POD_NAMESPACE": "shop"}
    )
    assert (ran.finished["exit_name"], ran.finished["applied"]) == ("ok", ["r1", "r2"])
    assert (ran.events[0]["image"], ran.events[0]["pod"]) == (container(job)["image"], "shop/migrate-x")


@pytest.mark.parametrize("missing", ["the Secret", "its key"])
def test_a_secret_that_is_missing_ends_the_pod_with_2_and_the_name_of_the_file(tmp_path: Path, missing: str) -> None:
    """The volume is optional: kubelet then mounts an empty directory, or one without the key."""
    [job] = read(MANIFESTS / "job.yaml")
    env = environment(container(job))
    file = Path(env["ALEMBIC_JOB_DATABASE_URL_FILE"])
    directory = tmp_path / file.parent.name
    directory.mkdir()
    if missing == "its key":
        (directory / "dsn").write_text("sqlite:///app.db")
    project = make_project(tmp_path)
    env["ALEMBIC_JOB_DATABASE_URL_FILE"] = str(directory / file.name)
    ran = run_job(cwd=project.path, env=env)
    assert (ran.exit_code, ran.finished["exit_name"], ran.finished["retryable"]) == (2, "config_invalid", False)
    assert str(directory / file.name) in ran.finished["error"]
    assert "secret" in ran.finished["hint"]
