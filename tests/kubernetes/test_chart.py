"""The chart as both versions of helm render it: valid for every Kubernetes, and sound beyond its schemas."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.settings import FIELDS, SECRET, variable
from tests.kubernetes import checks, schemas
from tests.kubernetes.chart import CHART
from tests.kubernetes.helm import (
    HELMS,
    MODES,
    container,
    joined,
    keys_of,
    needed,
    one,
    pod_of,
    run,
    secret_of,
    template,
    variables,
)

EVERYTHING: dict[str, Any] = {
    "image": {"digest": "sha256:" + "a" * 64, "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "command": ["alembic-job.sh"],
    "args": ["upgrade", "--plan", "/plan/plan.json"],
    "settings": {
        "CONFIG": "alembic.ini",
        "DDL_RETRY_FOR": "20s",
        "HEARTBEAT": 7.5,
        "LEDGER": False,
        "LOCK_TIMEOUT": "70s",
        "LOG_FIELDS": "gcp",
        "STOP_GRACE": "1m",
        "TIMEOUT": "2m",
        "WAIT_TIMEOUT": 20,
        "X": "tenant=all color=blue",
    },
    "backoffLimit": 1,
    "activeDeadlineSeconds": 3600,
    "terminationGracePeriodSeconds": 120,
    "serviceAccount": {"create": True, "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/migrate"}},
    "podSecurityContext": {
        "fsGroup": 1000680000,
        "supplementalGroups": [2000],
        "fsGroupChangePolicy": "OnRootMismatch",
    },
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    "annotations": {"example.com/team": "shop"},
    "podAnnotations": {"example.com/cost": "7"},
    "podLabels": {"sidecar.istio.io/inject": "false"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]}}
            ]
        }
    },
    "priorityClassName": "batch",
    "extraEnv": [
        {"name": "PYTHONPATH", "value": "/more"},
        {
            "name": "ALEMBIC_JOB_LOCK_DATABASE_URL",
            "valueFrom": {"secretKeyRef": {"name": "bookshop-database", "key": "direct"}},
        },
    ],
    "extraEnvFrom": [{"configMapRef": {"name": "bookshop-settings", "optional": True}}],
    "extraVolumes": [{"name": "plan", "configMap": {"name": "bookshop-plan"}}],
    "extraVolumeMounts": [{"name": "plan", "mountPath": "/plan", "readOnly": True}],
}
PARTS: dict[str, Any] = {
    "database": {"keys": {"DB_USER": "username", "DB_PASSWORD": "password", "DB_HOST": "host"}},
    "settings": {"DB_DRIVER": "postgresql+psycopg", "DB_NAME": "bookshop", "DB_PORT": 5432},
}
TRYING: dict[str, Any] = {"database": {"existingSecret": "", "url": "mysql+pymysql://shop:secret@db/shop"}}
CASES = {
    "as little as possible": {},
    "everything": EVERYTHING,
    "a Secret of parts": PARTS,
    "a Secret of two URLs": {"database": {"keys": {"DATABASE_URL": "uri", "LOCK_DATABASE_URL": "direct"}}},
    "the chart's own Secret": TRYING,
    "a URL, and a ServiceAccount": {**TRYING, "serviceAccount": {"create": True}},
    "a ServiceAccount that is there": {"serviceAccount": {"name": "migrator"}},
    "by digest": {"image": {"tag": "", "digest": "sha256:" + "0" * 64}},
    "waiting for the Secret": {"database": {"optional": False, "key": "DATABASE_URL"}},
    "OpenShift": {"podSecurityContext": {"runAsUser": "", "runAsGroup": "", "fsGroup": ""}},
}
RELEASES = {
    "short": "b",
    "usual": "bookshop",
    "longest": "x" * 53,
    "dotted": "book.shop",
    "of the chart": "alembic-job",
}


def options(mode: str) -> tuple[str, ...]:
    return ("--set", f"mode={mode}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_both_versions_of_helm_render_the_same(case: str, mode: str) -> None:
    three, four = (template(helm, needed(**CASES[case]), *options(mode)) for helm in HELMS)
    assert three == four


@pytest.mark.parametrize("version", schemas.VERSIONS)
@pytest.mark.parametrize("mode", MODES)
def test_every_kubernetes_takes_what_is_rendered(mode: str, version: str) -> None:
    for case, values in CASES.items():
        assert schemas.faults(template("helm4", needed(**values), *options(mode)), version) == [], case


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [case for case in CASES if case != "OpenShift"])
def test_what_is_rendered_is_sound(case: str, mode: str) -> None:
    assert checks.faults(template("helm4", needed(**CASES[case]), *options(mode))) == []


@pytest.mark.parametrize("argo", ["PreSync", "Sync"])
def test_argo_cd_makes_what_the_job_needs_a_wave_earlier(argo: str) -> None:
    values = needed(**CASES["a URL, and a ServiceAccount"], mode="argocd", argocd={"hook": argo, "syncWave": -3})
    documents = template("helm4", values)
    assert checks.faults(documents) == []
    waves = {
        document["kind"]: document["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] for document in documents
    }
    assert waves == {"Job": "-3", "Secret": "-4", "ServiceAccount": "-4"}
    hooks = {
        document["kind"]: document["metadata"]["annotations"].get("argocd.argoproj.io/hook") for document in documents
    }
    assert hooks == {"Job": argo} | dict.fromkeys(
        ("Secret", "ServiceAccount"), "PreSync" if argo == "PreSync" else None
    )


@pytest.mark.parametrize("helm", HELMS)
def test_lint_finds_nothing(helm: str) -> None:
    for mode in MODES:
        done = run(
            helm,
            "lint",
            "--strict",
            str(CHART),
            *options(mode),
            "--set",
            "image.repository=a,image.tag=b",
            "--set",
            "database.existingSecret=c",
        )
        assert done.returncode == 0 and "0 chart(s) failed" in done.stdout, done.stdout


@pytest.mark.parametrize("helm", HELMS)
def test_the_package_renders_as_the_folder_does(helm: str, tmp_path: Any) -> None:
    done = run(helm, "package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [package] = tmp_path.glob("*.tgz")
    assert template(helm, needed(), chart=package) == template(helm, needed())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", RELEASES)
def test_names_are_valid_whatever_the_release_is_called(release: str, mode: str) -> None:
    values = needed(**CASES["a URL, and a ServiceAccount"])
    documents = template("helm4", values, *options(mode), release=RELEASES[release])
    assert checks.faults(documents) == []
    for document in documents:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
        assert len(document["metadata"]["name"]) <= 63


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", ["nameOverride", "fullnameOverride"])
def test_names_that_are_given_are_cut_too_and_stay_different(key: str, mode: str) -> None:
    given = ["y" * 51 + "a", "y" * 51 + "b", "y" * 62 + "a", "y" * 62 + "b"]
    documents = [template("helm4", needed(**TRYING, **{key: name}), *options(mode)) for name in given]
    assert [checks.faults(each) for each in documents] == [[]] * len(given)
    assert len({one(each, "Job")["metadata"]["name"] for each in documents}) == len(given)
    assert max(len(one(each, "Job")["metadata"]["name"]) for each in documents) <= 63


@pytest.mark.parametrize("mode", MODES)
def test_two_releases_share_no_name_though_both_are_too_long_or_alike(mode: str) -> None:
    releases = ["x" * 52 + "y", "x" * 53, "x" * 52, "book.shop", "book-shop"]
    names = [
        {
            (document["kind"], document["metadata"]["name"])
            for document in template("helm4", needed(**TRYING), *options(mode), release=release)
        }
        for release in releases
    ]
    assert len(set.union(*names)) == sum(map(len, names))


def job(values: dict[str, Any], *more: str) -> dict[str, Any]:
    return one(template("helm4", needed(**values), *more), "Job")


@pytest.mark.parametrize("mode", ["job", "flux"])
def test_a_new_content_makes_a_new_job_and_the_same_content_the_same(mode: str) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"image": {"tag": "1.4.3"}},
        {"settings": {"X": "a"}},
        {"podAnnotations": {"run": "2"}},
        {"database": {"existingSecret": "other"}},
        TRYING,
        {"database": {"existingSecret": "", "url": "mysql+pymysql://shop:rotated@db/shop"}},
    ]
    names = [job(change, *options(mode))["metadata"]["name"] for change in changes]
    assert len(set(names)) == len(changes)
    # What is outside of the template can be changed in place.
    assert job({"annotations": {"a": "b"}}, *options(mode))["metadata"]["name"] == names[0]


def test_a_hook_keeps_its_name_since_helm_deletes_it_before() -> None:
    names = {
        job({"image": {"tag": tag}}, *options(mode))["metadata"]["name"]
        for tag in ("1", "2")
        for mode in ("hook", "argocd")
    }
    assert names == {"bookshop-alembic-job"}


def test_a_hook_runs_before_install_and_upgrade_and_not_before_a_rollback() -> None:
    assert job({}, *options("hook"))["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_a_job_goes_away_by_itself_unless_the_next_one_replaces_it() -> None:
    assert {mode: job({}, *options(mode))["spec"].get("ttlSecondsAfterFinished") for mode in MODES} == {
        "hook": None,
        "job": 7 * 24 * 3600,
        "argocd": None,
        "flux": 24 * 3600,
    }
    for mode, given in (("job", 0), ("flux", 301)):
        assert job({"ttlSecondsAfterFinished": given}, *options(mode))["spec"]["ttlSecondsAfterFinished"] == given


def test_flux_leaves_the_job_alone_that_has_run() -> None:
    annotations = job({}, *options("flux"))["metadata"]["annotations"]
    assert annotations == {"helm.toolkit.fluxcd.io/driftDetection": "disabled"}


def test_annotations_of_a_mode_can_be_changed_where_it_makes_sense() -> None:
    given = {"helm.sh/hook-weight": "5", "example.com/team": "shop"}
    assert job({"annotations": given}, *options("hook"))["metadata"]["annotations"].items() >= given.items()


@pytest.mark.parametrize("field", [field for field in FIELDS if field not in SECRET])
def test_every_setting_of_the_contract_reaches_the_program(field: str) -> None:
    kind = str(FIELDS[field].annotation)
    value: Any = "text"
    if "timedelta" in kind:
        value = "600s" if field != "stop_grace" else "1s"
    elif "bool" in kind:
        value = False
    elif "int" in kind:
        value = 5
    elif "Literal" in kind:
        value = re.findall(r"'([^']+)'", kind)[-1]
    elif field == "context":
        value = "shop.app:context"
    values = {"mode": "argocd", "settings": {field.upper(): value}}
    if field.startswith("db_"):
        values |= {
            "database": {"existingSecret": "", "keys": {}},
            "settings": {"DB_DRIVER": "sqlite", field.upper(): value},
        }
    said = variables(container(job(values)))[variable(field)]
    assert said == str(value).lower() if isinstance(value, bool) else said == str(value)


@pytest.mark.parametrize(
    ("given", "said"),
    [(0, "0"), (90, "90"), (1_000_000, "1000000"), (1.5, "1.5"), (0.25, "0.25"), ("90", "90"), ("1.5h", "1.5h")],
)
@pytest.mark.parametrize("helm", HELMS)
def test_numbers_are_written_as_a_person_would(helm: str, given: Any, said: str) -> None:
    values = needed(mode="job", settings={"WAIT_TIMEOUT": given})
    assert variables(container(one(template(helm, values), "Job")))["ALEMBIC_JOB_WAIT_TIMEOUT"] == said


def test_large_ids_stay_whole() -> None:
    pod = job(EVERYTHING)["spec"]["template"]["spec"]
    assert pod["securityContext"]["fsGroup"] == 1000680000


@pytest.mark.parametrize("nothing", [None, ""])
def test_on_openshift_the_namespace_gives_user_and_group(nothing: str | None) -> None:
    given = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), nothing)
    made = job({"podSecurityContext": given})
    assert not {"runAsUser", "runAsGroup"} & container(made)["securityContext"].keys()
    assert pod_of(made)["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert secret_of(made)["defaultMode"] == 0o444  # nobody's group


@pytest.mark.parametrize(
    ("given", "optional"),
    [
        ({}, True),
        ({"database": {"optional": False}}, False),
        ({"sameRelease": True}, False),
        ({"sameRelease": True, "database": {"optional": True}}, True),
    ],
)
@pytest.mark.parametrize("helm", HELMS)
def test_a_secret_that_comes_with_the_release_is_waited_for(helm: str, given: dict[str, Any], optional: bool) -> None:
    of_parts = {"mode": "job", "database": {"keys": {"DB_DRIVER": "driver", "DB_NAME": "name"}}}
    made = one(template(helm, joined(needed(**given), of_parts)), "Job")
    by_variable = variables(container(made))["ALEMBIC_JOB_DB_DRIVER"]["secretKeyRef"]
    assert (by_variable["optional"], secret_of(made)["optional"]) == (optional, optional)


def test_the_url_is_nowhere_but_in_the_secret() -> None:
    for mode in MODES:
        documents = template("helm4", needed(**TRYING), *options(mode))
        assert one(documents, "Secret")["stringData"] == {"url": TRYING["database"]["url"]}
        assert "secret@" not in str([document for document in documents if document["kind"] != "Secret"])


def test_a_certificate_in_the_same_secret_is_mounted_beside_the_url() -> None:
    assert "items" not in secret_of(job({"database": {"key": "uri"}}))


def test_the_chart_s_own_secret_has_the_key_that_is_mounted_whatever_key_another_would_have() -> None:
    documents = template("helm4", needed(database={**TRYING["database"], "key": "uri"}))
    assert keys_of(container(one(documents, "Job"))) == one(documents, "Secret")["stringData"].keys()


def test_helm_test_asks_whether_revisions_are_pending() -> None:
    pod = one(template("helm4", needed()), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container(pod)["args"] == ["status", "--exit-code"]
    assert not any(document["kind"] == "Pod" for document in template("helm4", needed(tests={"enabled": False})))
    assert not any(document["kind"] == "Pod" for document in template("helm4", needed(mode="argocd")))


@pytest.fixture(scope="module")
def with_notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes as an object: helm prints them after an installation only, and that needs a cluster."""
    chart = tmp_path_factory.mktemp("notes") / CHART.name
    shutil.copytree(CHART, chart)
    shutil.move(chart / "templates" / "NOTES.txt", chart / "NOTES.txt")
    notes = '{"kind": "Notes", "text": {{ tpl (.Files.Get "NOTES.txt") . | toJson }}}'
    (chart / "templates" / "notes.yaml").write_text(notes)
    return chart


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["as little as possible", "a URL, and a ServiceAccount"])
def test_the_notes_tell_where_to_look_by_the_names_that_are_there(
    case: str, helm: str, mode: str, with_notes: Path
) -> None:
    documents = template(helm, needed(**CASES[case]), *options(mode), chart=with_notes)
    notes, migrates = one(documents, "Notes")["text"], one(documents, "Job")
    assert f"kubectl logs -n shop job/{migrates['metadata']['name']}\n" in notes
    [selector] = set(re.findall(r"kubectl (?:describe pod|logs --tail=50) -n shop -l (\S+)", notes))
    labels = migrates["spec"]["template"]["metadata"]["labels"]
    assert dict(part.split("=") for part in selector.split(",")).items() <= labels.items()
    assert ("helm test -n shop bookshop" in notes) == (mode != "argocd")
    assert not re.search(r"%!|no value|secret@", notes)
