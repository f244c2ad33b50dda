"""The examples of the chart: as a part of another chart, and with the External Secrets Operator."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes import checks, schemas
from tests.kubernetes.chart import CHART, README
from tests.kubernetes.helm import (
    HELMS,
    MODES,
    Document,
    container,
    keys_of,
    one,
    refused,
    run,
    secret_of,
    template,
    variables,
)

EXAMPLES = CHART.parent / "examples"
# No schema of Kubernetes' own.
CUSTOM = {"ExternalSecret"}


@pytest.fixture(scope="module", params=HELMS)
def helm(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def bookshop(helm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent chart with its dependency, which helm takes from the folder beside it."""
    copy = tmp_path_factory.mktemp(helm) / "chart"
    shutil.copytree(CHART.parent, copy, ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    parent = copy / "examples" / "bookshop"
    done = run(helm, "dependency", "build", "--skip-refresh", str(parent))
    assert done.returncode == 0, done.stderr
    return parent


def values(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def sound(documents: list[Document]) -> None:
    assert checks.faults(documents) == []
    own = [document for document in documents if document["kind"] not in CUSTOM]
    for version in schemas.VERSIONS:
        assert schemas.faults(own, version) == []


def waiting(documents: list[Document]) -> Document:
    [init] = one(documents, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    return init


def test_the_pods_of_the_application_wait_with_the_image_and_the_database_of_the_job(helm: str, bookshop: Path) -> None:
    documents = template(helm, {}, chart=bookshop)
    sound(documents)
    [migrates] = one(documents, "Job")["spec"]["template"]["spec"]["containers"]
    waits = waiting(documents)
    assert (migrates["args"], waits["args"]) == (["upgrade"], ["wait"])
    assert waits["image"] == migrates["image"]
    for name in ("ALEMBIC_JOB_DATABASE_URL_FILE", "ALEMBIC_JOB_IMAGE"):
        assert variables(waits)[name] == variables(migrates)[name]


@pytest.mark.parametrize("mode", MODES)
def test_it_can_be_run_in_every_mode(helm: str, bookshop: Path, mode: str) -> None:
    documents = template(helm, {"alembic-job": {"mode": mode}}, chart=bookshop)
    assert checks.faults(documents) == []
    # The application waits as long as it is told, whatever is short in the Job for Helm's sake.
    assert "ALEMBIC_JOB_WAIT_TIMEOUT" not in variables(waiting(documents))


def test_lint_and_package_take_the_parent_too(helm: str, bookshop: Path, tmp_path: Path) -> None:
    done = run(helm, "lint", "--strict", "--with-subcharts", str(bookshop))
    assert done.returncode == 0, done.stdout
    done = run(helm, "package", str(bookshop), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [package] = tmp_path.glob("*.tgz")
    assert template(helm, {}, chart=package) == template(helm, {}, chart=bookshop)


def test_without_the_dependency_the_application_waits_for_nothing(helm: str, bookshop: Path) -> None:
    [deployment] = template(helm, {"alembic-job": {"enabled": False}}, chart=bookshop)
    assert "initContainers" not in deployment["spec"]["template"]["spec"]


def test_with_external_secrets_the_pods_are_not_started_before_the_secret_is_there(helm: str, bookshop: Path) -> None:
    documents = template(helm, values(bookshop / "values-external-secrets.yaml"), chart=bookshop)
    sound(documents)
    made = one(documents, "ExternalSecret")
    for workload in (one(documents, "Job"), one(documents, "Deployment")):
        secret = secret_of(workload)
        assert (secret["secretName"], secret["optional"]) == (made["spec"]["target"]["name"], False)
    for reads in (container(one(documents, "Job")), waiting(documents)):
        assert keys_of(reads) == {data["secretKey"] for data in made["spec"]["data"]}


def test_a_hook_is_refused_where_the_secret_comes_with_the_release(helm: str, bookshop: Path) -> None:
    both = values(bookshop / "values-external-secrets.yaml")
    both["alembic-job"]["mode"] = "hook"
    assert "sameRelease is true, and mode is hook" in refused(helm, both, chart=bookshop)


def test_the_schema_of_the_part_is_held_by_the_parent(helm: str, bookshop: Path) -> None:
    said = refused(helm, {"alembic-job": {"settings": {"LOCK_TIMEOT": "2m"}}}, chart=bookshop)
    assert "LOCK_TIMEOT" in said and "alembic-job" in said


@pytest.mark.parametrize(
    "own", [{"existingSecret": "bookshop-database"}, {"existingSecret": "", "url": "sqlite:////tmp/a"}]
)
def test_the_application_may_wait_with_a_login_of_its_own(helm: str, bookshop: Path, own: dict[str, str]) -> None:
    database = {**own, "waitSecret": "bookshop-app-database", "key": "uri"}
    documents = template(helm, {"alembic-job": {"database": database}}, chart=bookshop)
    sound(documents)
    migrates, waits = (secret_of(one(documents, kind))["secretName"] for kind in ("Job", "Deployment"))
    assert waits == "bookshop-app-database" != migrates
    assert keys_of(waiting(documents)) == {"uri"}


def test_a_parent_s_own_values_take_user_and_group_away(helm: str, bookshop: Path, tmp_path: Path) -> None:
    """As OpenShift needs it. Helm 4 does not hand down a null that is written there."""
    parent = Path(shutil.copytree(bookshop, tmp_path / "parent"))
    own = values(parent / "values.yaml")
    own["alembic-job"]["podSecurityContext"] = {"runAsUser": "", "runAsGroup": "", "fsGroup": ""}
    (parent / "values.yaml").write_text(yaml.safe_dump(own))
    pod = one(template(helm, {}, chart=parent), "Job")["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_the_application_is_not_rolled_by_what_concerns_the_job_alone(helm: str, bookshop: Path) -> None:
    """Nor does it stop the sidecar that the application needs."""
    of_job = {
        "DDL_RETRY_FOR": "1m",
        "LOCK": "lease",
        "LOCK_TIMEOUT": "20m",
        "RESUME": "off",
        "SIDECAR_QUIT_URL": "http://127.0.0.1:15020/quitquitquit",
        "STATEMENT_TIMEOUT": "1h",
        "STOP_GRACE": "1m",
        "TIMEOUT": "2h",
        "TRANSACTION": "per-revision",
    }
    with_login = {"name": "ALEMBIC_JOB_SIDECAR_QUIT_URL", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    before, after, by_variable = (
        template(helm, {"alembic-job": values}, chart=bookshop)
        for values in ({}, {"settings": of_job}, {"extraEnv": [with_login]})
    )
    assert one(after, "Deployment") == one(by_variable, "Deployment") == one(before, "Deployment")
    assert with_login in one(by_variable, "Job")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert one(after, "Job") != one(before, "Job")
    both = template(helm, {"alembic-job": {"settings": {"X": "tenant=all", "ON_AHEAD": "ok"}}}, chart=bookshop)
    assert variables(waiting(both)).items() >= {"ALEMBIC_JOB_X": "tenant=all", "ALEMBIC_JOB_ON_AHEAD": "ok"}.items()


def test_two_parts_of_one_chart_do_not_meet(helm: str, tmp_path: Path) -> None:
    """Two databases, each with an alias of its own: names, volumes and containers."""
    shutil.copytree(CHART, tmp_path / "alembic-job")
    parent = tmp_path / "two"
    (parent / "templates").mkdir(parents=True)
    needed = {"mode": "job", "image": {"repository": "a", "tag": "1"}}
    aliases = ["orders", "users"]
    (parent / "Chart.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v2",
                "name": "two",
                "version": "0.1.0",
                "dependencies": [
                    {"name": "alembic-job", "alias": alias, "version": "0.1.0", "repository": "file://../alembic-job"}
                    for alias in aliases
                ],
            }
        )
    )
    (parent / "values.yaml").write_text(
        yaml.safe_dump({alias: {**needed, "database": {"existingSecret": alias}} for alias in aliases})
    )
    deployment = (EXAMPLES / "bookshop" / "templates" / "deployment.yaml").read_text()
    begin, end = deployment.index("      {{- if $migrations }}"), deployment.index("      containers:")
    each = "".join(
        f'        {{{{- include "alembic-job.{name}" (index .Subcharts "{alias}") | nindent 8 }}}}\n'
        for name in ("wait", "waitVolumes")
        for alias in aliases
    ).splitlines(keepends=True)
    both = ["      initContainers:\n", *each[:2], "      volumes:\n", *each[2:]]
    text = deployment[:begin] + "".join(both) + deployment[end:]
    text = text.replace('{{- $migrations := index .Subcharts "alembic-job" -}}\n', "")
    text = text.replace('{{ index .Values "alembic-job" "database" "existingSecret" }}', "orders")
    text = text.replace("{{ .Values.replicas }}", "1").replace("900", "2400")
    (parent / "templates" / "deployment.yaml").write_text(
        text.replace("{{ .Values.image.repository }}:{{ .Values.image.tag }}", "a:1")
    )
    assert run(helm, "dependency", "build", "--skip-refresh", str(parent)).returncode == 0
    documents = template(helm, {}, chart=parent)
    sound(documents)
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(set(names)) == len(names) == 5  # two Jobs, two tests, one Deployment


def test_the_readme_shows_the_lines_that_are_tried_here() -> None:
    deployment = (EXAMPLES / "bookshop" / "templates" / "deployment.yaml").read_text()
    [shown] = re.findall(r"# templates/deployment.yaml\n(.*?)```", README.read_text(), re.DOTALL)
    tried = deployment.replace("$migrations", '(index .Subcharts "alembic-job")')
    assert [line for line in shown.splitlines() if line not in tried.splitlines() and line != "    spec:"] == []


def test_the_values_for_external_secrets_name_the_keys_that_are_made(helm: str) -> None:
    folder = EXAMPLES / "external-secrets"
    made = values(folder / "externalsecret.yaml")
    documents = template(helm, values(folder / "values.yaml"))
    sound(documents)
    job = one(documents, "Job")
    assert secret_of(job)["secretName"] == made["spec"]["target"]["name"]
    assert keys_of(container(job)) == {data["secretKey"] for data in made["spec"]["data"]}
