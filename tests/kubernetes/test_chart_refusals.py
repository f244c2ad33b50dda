"""What the chart refuses: the schema names the key, a template says what is wrong and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from runner.settings import FIELDS, SECRET
from tests.kubernetes.helm import HELMS, needed, refused, template

# The path of the key, and values that are wrong there.
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("mod", {"mod": "job"}),
    ("mode", {"mode": "cron"}),
    ("mode", {"mode": ["hook", "job"]}),
    ("helmTimeout", {"helmTimeout": "five minutes"}),
    ("sameRelease", {"sameRelease": "yes"}),
    ("repo", {"image": {"repo": "a"}}),
    ("tag", {"image": {"tag": 1.10}}),
    ("tag", {"image": {"tag": "1.4.2 "}}),
    ("digest", {"image": {"digest": "abc"}}),
    ("pullPolicy", {"image": {"pullPolicy": "Sometimes"}}),
    ("imagePullSecrets", {"imagePullSecrets": ["registry"]}),
    ("args", {"args": "upgrade"}),
    ("args", {"args": [1]}),
    ("command", {"command": "alembic-job.sh"}),
    ("existingSecret", {"database": {"existingSecret": "Bookshop_Database"}}),
    ("secret", {"database": {"secret": "a"}}),
    ("key", {"database": {"key": "a/b"}}),
    ("DB_PASS", {"database": {"keys": {"DB_PASS": "password"}}}),
    ("LOCK_TIMEOUT", {"database": {"keys": {"LOCK_TIMEOUT": "x"}}}),
    ("LOCK_TIMEOT", {"settings": {"LOCK_TIMEOT": "2m"}}),
    ("lock_timeout", {"settings": {"lock_timeout": "2m"}}),
    ("ALEMBIC_JOB_LOCK_TIMEOUT", {"settings": {"ALEMBIC_JOB_LOCK_TIMEOUT": "2m"}}),
    ("LOCK_TIMEOUT", {"settings": {"LOCK_TIMEOUT": "2 minutes"}}),
    ("LOCK_TIMEOUT", {"settings": {"LOCK_TIMEOUT": -1}}),
    ("LOCK", {"settings": {"LOCK": "file"}}),
    ("LEDGER", {"settings": {"LEDGER": "perhaps"}}),
    ("CONTEXT", {"settings": {"CONTEXT": "no callable"}}),
    ("X", {"settings": {"X": ["a", "b"]}}),
    ("settings", {"settings": ["LOCK_TIMEOUT=2m"]}),
    ("backoffLimit", {"backoffLimit": -1}),
    ("backoffLimit", {"backoffLimit": "3"}),
    ("ttlSecondsAfterFinished", {"mode": "job", "ttlSecondsAfterFinished": "1h"}),
    ("activeDeadlineSeconds", {"activeDeadlineSeconds": 0}),
    ("terminationGracePeriodSeconds", {"terminationGracePeriodSeconds": "300s"}),
    ("hook", {"argocd": {"hook": "PostSync"}}),
    ("syncWave", {"argocd": {"syncWave": "1"}}),
    ("create", {"serviceAccount": {"create": "true"}}),
    ("runAsUser", {"podSecurityContext": {"runAsUser": 0}}),
    ("privileged", {"podSecurityContext": {"privileged": True}}),
    ("limit", {"resources": {"limit": {}}}),
    ("a", {"annotations": {"a": True}}),
    ("tolerations", {"tolerations": {"key": "a"}}),
    ("effect", {"tolerations": [{"effect": "Never"}]}),
    ("nodeaffinity", {"affinity": {"nodeaffinity": {}}}),
    ("extraEnv", {"extraEnv": {"A": "b"}}),
    ("value", {"extraEnv": [{"name": "A", "value": 1}]}),
    ("valuefrom", {"extraEnv": [{"name": "A", "valuefrom": {}}]}),
    ("name", {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}),
    ("mountPath", {"extraVolumeMounts": [{"name": "a", "mountPath": "relative"}]}),
    ("mountPath", {"extraVolumeMounts": [{"name": "a", "mountPath": "/tmp"}]}),
    ("test", {"test": {"enabled": False}}),
    ("fullnameOverride", {"fullnameOverride": "Bookshop"}),
    ("nameOverride", {"nameOverride": "book.shop"}),
    # Taken away, or not known yet by the release whose values --reuse-values brings.
    *((key, {key: None}) for key in ("mode", "helmTimeout", "sameRelease", "image", "args", "database")),
    *(
        (key, {key: None})
        for key in ("terminationGracePeriodSeconds", "argocd", "serviceAccount", "resources", "tests")
    ),
    ("key", {"database": {"key": None}}),
    ("hook", {"argocd": {"hook": None}}),
    ("syncWave", {"argocd": {"syncWave": None}}),
]


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(("key", "values"), WRONG, ids=str)
def test_the_schema_refuses_it_and_names_the_key(helm: str, key: str, values: dict[str, Any]) -> None:
    said = refused(helm, needed(**values))
    assert "values don't meet the specifications of the schema" in said
    assert key in said.partition("schema")[2]


# What contradicts each other, and a part of what is said of it.
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": {"repository": ""}}, "image.repository is missing: write the image"),
    "no tag": ({"image": {"tag": ""}}, "image.tag is missing: write the tag of registry.example.com/bookshop-migrate"),
    "a tag in the repository": ({"image": {"repository": "a.example:5000/b:1"}}, "write the tag in image.tag"),
    "latest": ({"mode": "job", "image": {"tag": "latest"}}, "it would never run again"),
    "no database": ({"database": {"existingSecret": ""}}, "No database: write the name of the Secret"),
    "two databases": ({"database": {"url": "sqlite:////tmp/x"}}, "write the one or the other"),
    "keys of no Secret": ({"database": {"existingSecret": "", "keys": {"DB_USER": "a"}}}, "database.existingSecret"),
    "parts beside a URL": ({"settings": {"DB_HOST": "db"}}, "settings.DB_HOST is given beside a URL"),
    "parts without a driver": (
        {"database": {"keys": {"DB_PASSWORD": "a"}}, "settings": {"DB_NAME": "a"}},
        "DB_DRIVER is missing",
    ),
    "a lock's URL alone": (
        {"database": {"keys": {"LOCK_DATABASE_URL": "direct"}}},
        "database.keys has no URL: write the key of the database URL in database.keys.DATABASE_URL",
    ),
    "a part that a variable has too": (
        {
            "database": {"keys": {"DB_PASSWORD": "a"}},
            "settings": {"DB_DRIVER": "sqlite", "DB_NAME": "a"},
            "extraEnv": [{"name": "ALEMBIC_JOB_DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
        },
        "and database.keys.DB_PASSWORD is given: write the one or the other",
    ),
    "Helm's hook in mode job": (
        {"mode": "job", "annotations": {"helm.sh/hook": "post-install"}},
        "annotations has helm.sh/hook, and mode is job: two modes at once. Write mode: hook",
    ),
    "Argo CD's hook in mode hook": (
        {"annotations": {"argocd.argoproj.io/hook": "PreSync"}},
        "two modes at once. Write mode: argocd",
    ),
    "Argo CD's phase in mode hook": (
        {"argocd": {"hook": "Sync"}},
        "argocd.hook is Sync, and mode is hook: two modes at once",
    ),
    "a weight without a hook": ({"mode": "job", "annotations": {"helm.sh/hook-weight": "1"}}, "does not know it"),
    "of the same release in a hook": (
        {"sameRelease": True},
        "sameRelease is true, and mode is hook: Helm runs the Job before",
    ),
    "of the same release in PreSync": ({"sameRelease": True, "mode": "argocd"}, "Write argocd.hook: Sync"),
    "a TTL on a hook": ({"ttlSecondsAfterFinished": 600}, "so that the logs of a failure can be read. Remove it"),
    "a TTL in PreSync": (
        {"mode": "argocd", "ttlSecondsAfterFinished": 600},
        "so that the logs of a failure can be read",
    ),
    "gone before Flux has seen it": (
        {"mode": "flux", "ttlSecondsAfterFinished": 300},
        "ttlSecondsAfterFinished is 300, and helmTimeout 5m: Flux may still wait",
    ),
    "waiting longer than Helm": (
        {"settings": {"LOCK_TIMEOUT": "4m"}},
        "helmTimeout is 5m, and the Job may wait for 610 s:"
        " 2 x (WAIT_TIMEOUT 30 s + LOCK_TIMEOUT 240 s + DDL_RETRY_FOR 30 s) + 10 s between the attempts.",
    ),
    "waiting longer than Flux": (
        {"mode": "flux", "backoffLimit": 2},
        "or raise helmTimeout together with spec.timeout of the HelmRelease",
    ),
    "waiting exactly as long as Helm": ({"helmTimeout": "280s"}, "helmTimeout is 280s, and the Job may wait for 280 s"),
    "a login refused for longer than Helm": ({"settings": {"RETRY_REFUSED_FOR": "10m"}}, "WAIT_TIMEOUT 600 s"),
    "migrating longer than Helm": ({"settings": {"TIMEOUT": "195s"}}, "TIMEOUT 195s after up to 105 s of waiting"),
    "stopping longer than the next one waits": (
        {"settings": {"STOP_GRACE": "75s"}},
        "the next Job gives up while the one before",
    ),
    "stopping longer than the pod lives": (
        {"terminationGracePeriodSeconds": 69},
        "STOP_GRACE is 60s, and terminationGracePeriodSeconds 69",
    ),
    "a deadline alone": ({"activeDeadlineSeconds": 600}, "in the middle of a migration. Write settings.TIMEOUT"),
    "a deadline that is too short": (
        {"mode": "job", "activeDeadlineSeconds": 4869, "settings": {"TIMEOUT": "3m"}},
        "the Job may take 4870 s",
    ),
    "a variable twice": (
        {"extraEnv": [{"name": "ALEMBIC_JOB_LOCK_TIMEOUT", "value": "1m"}]},
        "extraEnv has ALEMBIC_JOB_LOCK_TIMEOUT, which the chart sets: write settings.LOCK_TIMEOUT",
    ),
    "the pod's name twice": (
        {"extraEnv": [{"name": "POD_NAME", "value": "a"}]},
        "extraEnv has POD_NAME, which the chart sets",
    ),
    "a URL beside the Secret": (
        {"extraEnv": [{"name": "ALEMBIC_JOB_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]},
        "and database has a Secret: write the one or the other",
    ),
    "a password in the manifest": (
        {"extraEnv": [{"name": "ALEMBIC_JOB_LOCK_DATABASE_URL", "value": "postgresql://shop:hunter22@db/shop"}]},
        "a secret that would be readable in the Job: write valueFrom.secretKeyRef",
    ),
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_contradicts_each_other_is_refused_with_what_to_write_instead(helm: str, case: str) -> None:
    values, expected = CONTRADICTIONS[case]
    said = refused(helm, needed(**values))
    assert expected in said
    assert "hunter22" not in said


@pytest.mark.parametrize("field", sorted(SECRET))
@pytest.mark.parametrize("helm", HELMS)
def test_a_secret_among_the_settings_is_refused_with_where_it_belongs(helm: str, field: str) -> None:
    said = refused(helm, needed(settings={field.upper(): "postgresql://shop:hunter22@db/shop"}))
    assert f"settings.{field.upper()} is a secret" in said
    assert f"database.keys.{field.upper()}" in said
    assert "hunter22" not in said


@pytest.mark.parametrize("helm", HELMS)
def test_everything_that_is_wrong_is_said_at_once(helm: str) -> None:
    said = refused(helm, {"sameRelease": True, "terminationGracePeriodSeconds": 30})
    for part in ("image.repository is missing", "No database", "sameRelease", "terminationGracePeriodSeconds"):
        assert part in said


# Just inside of what is refused above.
ALLOWED: dict[str, dict[str, Any]] = {
    "a second more than the Job may wait": {"helmTimeout": 281},
    "TIMEOUT below what Helm waits": {"settings": {"TIMEOUT": "194s"}},
    "ten seconds more than STOP_GRACE": {"terminationGracePeriodSeconds": 70},
    "a longer helmTimeout": {"helmTimeout": "1h", "settings": {"LOCK_TIMEOUT": "10m", "STOP_GRACE": "290s"}},
    "latest in a hook": {"image": {"tag": "latest"}},
    "latest by digest": {"mode": "job", "image": {"tag": "latest", "digest": "sha256:" + "1" * 64}},
    "of the same release in a Job": {"mode": "job", "sameRelease": True},
    "of the same release in Sync": {"mode": "argocd", "sameRelease": True, "argocd": {"hook": "Sync"}},
    "a plain Job may wait for long": {"mode": "job", "settings": {"LOCK_TIMEOUT": "2h"}},
    "a URL from elsewhere": {
        "database": {"existingSecret": ""},
        "extraEnv": [{"name": "ALEMBIC_JOB_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
    },
    "a lock's URL beside a URL from elsewhere": {
        "database": {"keys": {"LOCK_DATABASE_URL": "direct"}},
        "extraEnv": [{"name": "ALEMBIC_JOB_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
    },
    "parts from a ConfigMap": {
        "database": {"keys": {"DB_PASSWORD": "password"}},
        "extraEnvFrom": [{"configMapRef": {"name": "bookshop-database"}}],
    },
    "SQLite by parts": {
        "database": {"existingSecret": ""},
        "settings": {"DB_DRIVER": "sqlite", "DB_NAME": "/data/shop"},
    },
    "no settings": {"settings": None},
    "what a parent chart hands down": {"global": {"anything": 1}, "enabled": True},
    "a deadline that is long enough": {"mode": "job", "activeDeadlineSeconds": 4870, "settings": {"TIMEOUT": "3m"}},
}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("case", ALLOWED)
def test_what_can_work_is_not_refused(helm: str, case: str) -> None:
    assert template(helm, needed(**ALLOWED[case]))


@pytest.mark.parametrize("longest", ["60s", "1m", "60000ms", "60", 60, "1.0 m", "0.016666666666666666h"])
def test_a_duration_is_as_long_in_every_unit(longest: Any) -> None:
    """A minute is let through as STOP_GRACE of a pod that has 70 s, and is too long for one that has 69 s."""
    values = {"settings": {"STOP_GRACE": longest}}
    assert template("helm4", needed(terminationGracePeriodSeconds=70, **values))
    assert "terminationGracePeriodSeconds 69" in refused("helm4", needed(terminationGracePeriodSeconds=69, **values))


@pytest.mark.parametrize("field", [field for field in FIELDS if field not in SECRET])
def test_a_setting_of_the_wrong_type_is_refused_by_its_name(field: str) -> None:
    assert field.upper() in refused("helm4", needed(settings={field.upper(): {"a": "map"}}))
