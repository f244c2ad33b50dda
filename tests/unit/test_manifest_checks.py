"""Each fault that the checks know is found in a manifest that is otherwise sound.

A case says what is changed in a real manifest, or in what a chart makes of it, and what the one fault says then.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from runner.settings import PREFIX
from tests.kubernetes import checks, failure_policy, generate, hooks, naming, pod_security, running

Documents = list[dict[str, Any]]
_REMOVED = object()
POD = "spec.template.spec"
MAIN = f"{POD}.containers.0"
FIRST = f"{POD}.initContainers.0"
RULES = "spec.podFailurePolicy.rules"


@functools.cache
def _read(name: str) -> Documents:
    return list(yaml.safe_load_all((generate.MANIFESTS / name).read_text(encoding="utf-8")))


def job() -> Documents:
    return copy.deepcopy(_read("job.yaml"))


def waiting() -> Documents:
    return copy.deepcopy(_read("deployment-init.yaml"))


def migrating() -> Documents:
    return copy.deepcopy(_read("deployment-init-migrates.yaml"))


def helm() -> Documents:
    """A hook Job, with the Secret and the ServiceAccount that it uses."""
    [made] = job()
    before = {
        "helm.sh/hook": "pre-install,pre-upgrade",
        "helm.sh/hook-weight": "-10",
        "helm.sh/hook-delete-policy": "before-hook-creation",
    }
    made["metadata"]["annotations"] = {**before, "helm.sh/hook-weight": "0"}
    return _with_what_it_uses(made, before)


def argo() -> Documents:
    [made] = job()
    before = {
        "argocd.argoproj.io/hook": "PreSync",
        "argocd.argoproj.io/sync-wave": "-1",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
    }
    made["metadata"]["annotations"] = {**before, "argocd.argoproj.io/sync-wave": "0"}
    return _with_what_it_uses(made, before)


def flux() -> Documents:
    [made] = job()
    made["metadata"]["annotations"] = {"kustomize.toolkit.fluxcd.io/force": "enabled"}
    del made["spec"]["ttlSecondsAfterFinished"]
    return [made]


def _with_what_it_uses(made: dict[str, Any], annotations: dict[str, str]) -> Documents:
    del made["spec"]["ttlSecondsAfterFinished"]
    made["spec"]["template"]["spec"]["serviceAccountName"] = "migrate"
    return [
        made,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "bookshop-database", "annotations": dict(annotations)},
            "stringData": {"url": "sqlite:////data/app.db"},
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "migrate", "annotations": dict(annotations)},
        },
    ]


def service() -> Documents:
    """The Deployment with its Service."""
    return [
        *waiting(),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "bookshop"},
            "spec": {"selector": dict(waiting()[1]["metadata"]["labels"]), "ports": [{"port": 80}]},
        },
    ]


def two_jobs() -> Documents:
    other = job()
    other[0]["metadata"]["name"] = "shop-migrate-1-4-2"
    return [*job(), *other]


NEEDED_S = 4 * (120 + 900 + 3600) + 10 + 20 + 40


def limited() -> Documents:
    """A Job with a deadline that lets every attempt have its time."""
    [made] = job()
    made["spec"]["template"]["spec"]["containers"][0]["env"].append(ours("TIMEOUT", "1h"))
    made["spec"]["activeDeadlineSeconds"] = NEEDED_S
    return [made]


def helm_and_more() -> Documents:
    """A hook's Secret that a Deployment uses, too."""
    return [*helm(), waiting()[1]]


@dataclass(frozen=True)
class Case:
    """What is changed: a path in a document, a key of the path with dots in brackets, and its new value."""

    of: Callable[[], Documents]
    path: str
    value: Any
    fault: str  # a part of what is said, as a regular expression
    at: int = 0
    alone: bool = True  # and nothing else is said

    def __str__(self) -> str:
        return re.sub(r"[^\w.-]+", "-", f"{self.of.__name__}-{self.path.removeprefix(POD + '.')}-{self.fault}")[:90]


def steps(path: str) -> Iterator[str | int]:
    for quoted, plain in re.findall(r"\[([^]]+)\]|([^.\[\]]+)", path):
        yield quoted or (int(plain) if plain.isdecimal() else plain)


def changed(case: Case) -> Documents:
    documents = case.of()
    *way, last = steps(case.path)
    place: Any = documents[case.at]
    for step in way:
        place = place[step] if isinstance(step, int) else place.setdefault(step, {})
    if case.value is _REMOVED:
        del place[last]
    elif isinstance(place, list) and last == "+":
        place.append(case.value)
    else:
        assert isinstance(place, list) or place.get(last) != case.value, "nothing is changed"
        place[last] = case.value
    return documents


def env(name: str, value: Any = None, **source: Any) -> dict[str, Any]:
    return {"name": name, **({"valueFrom": source} if source else {"value": value})}


def ours(setting: str, value: Any) -> dict[str, Any]:
    return env(f"{PREFIX}{setting}", value)


def at(name: str, of: Callable[[], Documents] = job, document: int = 0, container: str = MAIN) -> str:
    """The path of a variable."""
    place: Any = of()[document]
    for step in steps(container):
        place = place[step]
    [index] = [number for number, each in enumerate(place["env"]) if each["name"] == name]
    return f"{container}.env.{index}"


CODES = f"{RULES}.0.onExitCodes"
POLICY = [
    Case(job, f"{POD}.restartPolicy", "OnFailure", "restartPolicy is OnFailure"),
    Case(job, "spec.backoffLimit", _REMOVED, "no backoffLimit"),
    Case(job, "spec.parallelism", 3, "parallelism is 3: one pod is enough"),
    Case(job, "spec.podReplacementPolicy", "TerminatingOrFailed", "podReplacementPolicy has to be Failed"),
    Case(job, "spec.podFailurePolicy", _REMOVED, "no podFailurePolicy"),
    Case(job, f"{RULES}.0.action", "FailJobs", "action FailJobs is none of"),
    Case(job, f"{RULES}.0.action", "FailIndex", "FailIndex is for indexed Jobs"),
    Case(
        job, f"{RULES}.0.action", "Count", r"exit code 2 of migrate \(config_invalid\) is not in FailJob", alone=False
    ),
    Case(job, f"{RULES}.1.action", "Count", "no rule with Ignore on DisruptionTarget"),
    Case(job, f"{RULES}.1", _REMOVED, "no rule with Ignore on DisruptionTarget"),
    Case(
        job, f"{RULES}.0.onPodConditions", [{"type": "X", "status": "True"}], "one of onExitCodes and onPodConditions"
    ),
    Case(job, f"{RULES}.1.onPodConditions", [], "one of onExitCodes and onPodConditions"),
    Case(job, f"{RULES}.1.onPodConditions.0.status", True, "status True is none of"),
    Case(job, f"{RULES}.1.onPodConditions.0.status", _REMOVED, "status None is none of"),
    Case(job, f"{CODES}.operator", "in", "operator in is none of"),
    Case(job, f"{CODES}.operator", "NotIn", "exit code 2 of migrate .* is not in FailJob", alone=False),
    Case(job, f"{CODES}.containerName", _REMOVED, "no containerName"),
    Case(job, f"{CODES}.containerName", "main", "there is no container main"),
    Case(job, f"{MAIN}.name", "main", "there is no container migrate"),
    Case(job, f"{CODES}.values", [], "one of onExitCodes|values have to be", alone=False),
    Case(job, f"{CODES}.values", [2, *checks.CODES], "in ascending order, none twice"),
    Case(job, f"{CODES}.values", checks.CODES[::-1], "in ascending order, none twice"),
    Case(job, f"{CODES}.values", [0, *checks.CODES], "0 is no failure"),
    Case(
        job, f"{CODES}.values", checks.CODES[:-1], r"exit code 45 of migrate \(target_not_reached\) is not in FailJob"
    ),
    Case(job, f"{CODES}.values", sorted([*checks.CODES, 20]), r"exit code 20 .*\(lock_timeout\) is in FailJob"),
    Case(job, f"{CODES}.values", [*checks.CODES, 143], r"exit code 143 .*\(interrupted\) is in FailJob"),
    Case(job, f"{CODES}.values", [*checks.CODES, 137], r"exit code 137 .*container runtime's\) is in FailJob"),
    Case(job, f"{CODES}.values", sorted([*checks.CODES, 3]), r"exit code 3 .*\(pending\) is an answer"),
    Case(job, f"{RULES}", job()[0]["spec"]["podFailurePolicy"]["rules"][::-1], "comes before that of the exit codes"),
    Case(
        job,
        f"{RULES}",
        [
            *job()[0]["spec"]["podFailurePolicy"]["rules"],
            {"action": "Count", "onExitCodes": {"containerName": "migrate", "operator": "In", "values": [40]}},
        ],
        "exit code 40 of migrate .* is in 2 rules",
        alone=False,
    ),
]

SECURITY = [
    *(Case(job, f"{POD}.{key}", True, f"{key} is on") for key in ("hostNetwork", "hostPID", "hostIPC")),
    Case(job, f"{POD}.volumes.1.hostPath", {"path": "/tmp"}, "volume tmp is a hostPath"),
    Case(job, f"{POD}.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctl kernel.msgmax"),
    Case(job, f"{POD}.securityContext.runAsGroup", 0, "0 is root"),
    Case(job, f"{POD}.securityContext.runAsUser", 0, "runAsUser is root", alone=False),
    Case(job, f"{POD}.securityContext.runAsUser", _REMOVED, "runAsUser has to be a number"),
    Case(job, f"{MAIN}.securityContext.runAsUser", "job", "runAsUser has to be a number"),
    Case(job, f"{POD}.securityContext.runAsNonRoot", _REMOVED, "runAsNonRoot has to be true"),
    Case(job, f"{MAIN}.securityContext.runAsNonRoot", False, "runAsNonRoot has to be true"),
    Case(job, f"{POD}.securityContext.seccompProfile", _REMOVED, "seccompProfile is None"),
    Case(job, f"{MAIN}.securityContext.seccompProfile.type", "Unconfined", "seccompProfile is Unconfined"),
    Case(job, f"{POD}.securityContext.seLinuxOptions", {"type": "spc_t"}, "seLinuxOptions"),
    Case(job, f"{MAIN}.securityContext.seLinuxOptions", {"user": "system_u"}, "seLinuxOptions"),
    Case(job, f"{POD}.securityContext.windowsOptions", {"hostProcess": True}, "hostProcess is on"),
    Case(job, f"{POD}.securityContext.appArmorProfile", {"type": "Unconfined"}, "appArmorProfile is Unconfined"),
    Case(
        job,
        "spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/migrate]",
        "unconfined",
        "AppArmor is unconfined",
    ),
    Case(job, f"{MAIN}.securityContext.privileged", True, "it is privileged"),
    Case(job, f"{MAIN}.securityContext.allowPrivilegeEscalation", _REMOVED, "allowPrivilegeEscalation has to be false"),
    Case(job, f"{MAIN}.securityContext.capabilities", _REMOVED, "capabilities have to drop ALL"),
    Case(job, f"{MAIN}.securityContext.capabilities.add", ["SYS_ADMIN"], "capabilities add SYS_ADMIN"),
    Case(job, f"{MAIN}.securityContext.procMount", "Unmasked", "procMount is Unmasked"),
    Case(job, f"{MAIN}.securityContext.readOnlyRootFilesystem", False, "readOnlyRootFilesystem has to be true"),
    Case(waiting, f"{MAIN}.ports.0.hostPort", 80, "it has a hostPort", at=1),
    Case(waiting, f"{MAIN}.readinessProbe", {"httpGet": {"host": "10.0.0.1", "port": 80}}, "asks another host", at=1),
    Case(waiting, f"{MAIN}.securityContext", {}, "container web: capabilities have to drop ALL", at=1, alone=False),
]

URL_FILE = "DATABASE_URL_FILE"
SETTINGS = [
    Case(job, f"{MAIN}.args", ["upgrad"], "the program refuses its arguments", alone=False),
    Case(job, f"{MAIN}.args", ["upgrade", "--databse", "x"], "the program refuses its arguments", alone=False),
    Case(job, f"{MAIN}.env.+", ours("LOCK_TIMEOUTS", "2m"), "LOCK_TIMEOUTS is no variable that the program reads"),
    Case(job, f"{MAIN}.env.+", ours("STOP_GRACE", "290s"), "STOP_GRACE is given 2 times"),
    Case(job, f"{MAIN}.env.+", ours("LOCK_TIMEOUT", "2 minutes"), "LOCK_TIMEOUT: '2 minutes' is no duration"),
    Case(job, f"{MAIN}.env.+", ours("WAIT_TIMEOUT", 120), "WAIT_TIMEOUT: 120 has to be in quotes"),
    Case(job, f"{MAIN}.env.+", ours("ON_AHEAD", "maybe"), "ON_AHEAD: Input should be"),
    Case(job, f"{MAIN}.env.+", ours("TARGET", "heads +1"), "TARGET: a relative target"),
    Case(job, f"{MAIN}.env.+", ours("DB_PASSWORD", "x"), "DB_PASSWORD belongs into a Secret"),
    Case(job, f"{MAIN}.env.+", ours("DATABASE_URL", "postgresql://a:b@c/d"), "DATABASE_URL has a password"),
    Case(job, f"{MAIN}.env.+", env("DATABASE_URL", "postgresql://a:b@c/d"), "DATABASE_URL has a password"),
    Case(job, f"{MAIN}.env.+", ours("X", "to=$(PLACE)"), r"leaves \$\(PLACE\) as it is"),
    Case(job, f"{MAIN}.env.+", ours("LOCK_DATABASE_URL", "oracle://a/b"), "'oracle' databases", alone=False),
    Case(job, at(f"{PREFIX}LOG_FORMAT"), ours("LOG_FORMAT", "text"), "LOG_FORMAT has to be json"),
    Case(job, at(f"{PREFIX}LOG_FORMAT"), _REMOVED, "LOG_FORMAT has to be json"),
    Case(job, at(f"{PREFIX}IMAGE"), _REMOVED, "IMAGE is None, and the image"),
    Case(job, f"{MAIN}.image", "registry.example.com/bookshop-migrate:1.4.3", "IMAGE is registry"),
    Case(job, at("POD_NAME"), _REMOVED, "POD_NAME has to come from the field metadata.name"),
    Case(job, at("POD_NAMESPACE"), env("POD_NAMESPACE", "default"), "POD_NAMESPACE has to come from the field"),
    Case(job, at("NODE_NAME"), env("NODE_NAME", fieldRef={"fieldPath": "status.hostIP"}), "NODE_NAME has to come"),
    Case(job, at(f"{PREFIX}{URL_FILE}"), ours(URL_FILE, "/run/secret/url"), "nothing is mounted at /run/secret/url"),
    Case(job, f"{MAIN}.env.+", ours("SECRETS_DIR", "/run/secrets/x"), "SECRETS_DIR: nothing is mounted"),
    Case(job, f"{POD}.volumes.0.secret.items", [{"key": "url", "path": "dsn"}], "the volume database has no url"),
    Case(job, f"{MAIN}.env.+", ours("SIDECAR_QUIT_URL_", "x"), "SIDECAR_QUIT_URL_ is no variable"),
    Case(
        waiting,
        f"{FIRST}.env.+",
        ours("SIDECAR_QUIT_URL", "http://127.0.0.1:15020/quitquitquit"),
        "would stop the sidecar that the containers after it need",
        at=1,
        alone=False,
    ),
]

SECONDS = "spec.activeDeadlineSeconds"
RESOURCES = [
    Case(job, f"{MAIN}.image", "registry.example.com:5000/bookshop-migrate", "has no tag that stays", alone=False),
    Case(job, f"{MAIN}.image", "bookshop-migrate:latest", "has no tag that stays", alone=False),
    Case(job, f"{MAIN}.resources.requests", _REMOVED, "no requests of cpu, memory"),
    Case(job, f"{MAIN}.resources.limits.memory", _REMOVED, "no limits of memory"),
    Case(job, f"{MAIN}.resources.limits.cpu", "1", "a limit of cpu"),
    Case(job, f"{MAIN}.terminationMessagePolicy", "File", "terminationMessagePolicy has to be"),
    Case(job, f"{MAIN}.terminationMessagePath", "/tmp/log", "terminationMessagePath is /tmp/log"),
    *(
        Case(job, f"{MAIN}.{key}", {"exec": {"command": ["true"]}}, f"{key}: it serves nothing")
        for key in ("livenessProbe", "readinessProbe", "startupProbe")
    ),
    Case(job, f"{MAIN}.lifecycle", {"preStop": {"sleep": {"seconds": 5}}}, "lifecycle: it serves nothing"),
    Case(job, f"{POD}.automountServiceAccountToken", _REMOVED, "automountServiceAccountToken has to be false"),
    Case(job, f"{POD}.enableServiceLinks", True, "enableServiceLinks has to be false"),
    *(
        Case(job, f"spec.template.metadata.annotations[{key}]", _REMOVED, f"needs the annotation {re.escape(key)}")
        for key in running.LEFT_ALONE
    ),
    Case(job, f"{POD}.terminationGracePeriodSeconds", _REMOVED, "terminationGracePeriodSeconds 30"),
    Case(job, f"{POD}.terminationGracePeriodSeconds", 299, "it has to be 10 s less"),
    Case(job, at(f"{PREFIX}STOP_GRACE"), ours("STOP_GRACE", "5m"), "it has to be 10 s less"),
    Case(job, f"{MAIN}.args", ["--lock-timeout", "4m"], "who comes next gives up before this one has stopped"),
    Case(job, f"{MAIN}.env.+", ours("LOCK_TIMEOUT", "290s"), "who comes next gives up before this one has stopped"),
    Case(job, SECONDS, 3600, "activeDeadlineSeconds would end a migration midway"),
    Case(job, f"{POD}.activeDeadlineSeconds", 3600, "activeDeadlineSeconds of the pod would end a migration midway"),
    Case(limited, SECONDS, NEEDED_S - 1, f"4 attempts may take {NEEDED_S} s"),
    Case(waiting, "spec.progressDeadlineSeconds", _REMOVED, "progressDeadlineSeconds is 600, .* may take 1020 s", at=1),
    Case(waiting, "spec.progressDeadlineSeconds", 1020, "progressDeadlineSeconds is 1020", at=1),
    Case(waiting, f"{FIRST}.args.+", "--timeout=1h", "may take 3720 s", at=1),
    Case(migrating, "spec.progressDeadlineSeconds", 600, "progressDeadlineSeconds is 600, .* may take 780 s"),
    Case(
        migrating,
        at(f"{PREFIX}TIMEOUT", migrating, container=FIRST),
        _REMOVED,
        "container migrate may take any time: set ALEMBIC_JOB_TIMEOUT",
    ),
]

VOLUMES = [
    Case(job, f"{MAIN}.volumeMounts.1.name", "temp", "volume temp is mounted, and there is none", alone=False),
    Case(job, f"{POD}.volumes.+", {"name": "data", "emptyDir": {}}, "volume data is mounted nowhere"),
    Case(job, f"{POD}.volumes.+", {"name": "tmp", "emptyDir": {}}, "volume tmp is there 2 times"),
    Case(job, f"{MAIN}.volumeMounts.+", {"name": "tmp", "mountPath": "/tmp"}, "container migrate has 2 mounts at /tmp"),
    Case(job, f"{POD}.volumes.0.secret.defaultMode", "0440", "defaultMode '0440' is none"),
    Case(job, f"{POD}.volumes.0.secret.defaultMode", 0o1000, "defaultMode 512 is none"),
    Case(job, f"{POD}.securityContext.fsGroup", _REMOVED, "with mode 0440 only root can read it"),
]

NAMES = [
    Case(job, "metadata.name", "bookshop-migrate-1-4-2-" + "x" * 41, "the name has 64 characters, of 63"),
    Case(job, "metadata.name", "bookshop_migrate", "lower-case letters"),
    Case(job, "metadata.name", "Bookshop-migrate", "lower-case letters"),
    Case(service, "metadata.name", "bookshop.web", "lower-case letters", at=2),
    Case(waiting, f"{MAIN}.name", "the_web", "container 'the_web': no name for one", at=1),
    Case(waiting, f"{MAIN}.name", "wait-for-schema", "two containers have one name", at=1),
    Case(two_jobs, "metadata.name", "bookshop-migrate-1-4-2", "there are two of this name", at=1),
    Case(job, "metadata.labels[app.kubernetes.io/version]", "1.4.2+build", "is no value of a label", alone=False),
    Case(job, "metadata.labels[app.kubernetes.io/version]", 1.4, "is no value of a label", alone=False),
    Case(waiting, "spec.selector", {}, "no matchLabels in its selector", at=1),
    Case(
        waiting,
        "spec.template.metadata.labels",
        {"app.kubernetes.io/name": "books"},
        "its selector does not match the labels of its template",
        at=1,
        alone=False,
    ),
    Case(service, "spec.selector", {"app.kubernetes.io/name": "books"}, "its selector finds no pod", at=2),
    Case(
        service,
        "spec.template.metadata.labels",
        {"app.kubernetes.io/name": "bookshop", "app.kubernetes.io/component": "web"},
        "Service bookshop: its selector finds the pods of Job",
        alone=False,
    ),
]


def helm_key(key: str) -> str:
    return f"metadata.annotations[helm.sh/{key}]"


def argo_key(key: str) -> str:
    return f"metadata.annotations[argocd.argoproj.io/{key}]"


HOOKS = [
    Case(helm, helm_key("hook"), "pre-instal", "Helm knows no pre-instal", alone=False),
    Case(helm, helm_key("hook"), "", "helm.sh/hook is empty", alone=False),
    Case(helm, helm_key("hook-weight"), 0, "has to be a whole number in quotes"),
    Case(helm, helm_key("hook-weight"), "first", "has to be a whole number in quotes"),
    Case(helm, helm_key("hook-delete-policy"), "before-hook-creations", "Helm knows no before", alone=False),
    Case(helm, helm_key("hook-delete-policy"), "hook-succeeded", "needs before-hook-creation", alone=False),
    Case(helm, helm_key("hook-delete-policy"), _REMOVED, "needs before-hook-creation"),
    Case(helm, helm_key("hook-delete-policy"), "before-hook-creation,hook-failed", "the logs would go away"),
    Case(helm, "spec.ttlSecondsAfterFinished", 60, "ttlSecondsAfterFinished on a hook"),
    Case(helm, "metadata.annotations", {}, "Secret bookshop-database is used at pre-install, pre-upgrade", at=1),
    Case(helm, helm_key("hook"), "pre-install", "Secret bookshop-database is used at pre-upgrade", at=1),
    Case(helm, helm_key("hook-weight"), "0", "Secret bookshop-database needs a lower helm.sh/hook-weight than 0", at=1),
    Case(helm, helm_key("hook-weight"), "5", "ServiceAccount migrate needs a lower helm.sh/hook-weight than 0", at=2),
    Case(helm, helm_key("hook"), _REMOVED, "helm.sh/hook-delete-policy on what is no hook"),
    Case(
        helm_and_more,
        helm_key("hook-delete-policy"),
        "before-hook-creation,hook-succeeded",
        "Deployment bookshop: Secret bookshop-database is used, and goes away after its hooks",
        at=1,
    ),
    Case(helm, argo_key("hook"), "PreSync", "of Helm and of Argo CD at once", alone=False),
    Case(argo, argo_key("hook"), "Presync", "Argo CD knows no Presync", alone=False),
    Case(argo, argo_key("hook-delete-policy"), "before-hook-creation", "Argo CD knows no before-hook", alone=False),
    Case(argo, argo_key("hook-delete-policy"), "HookSucceeded", "needs BeforeHookCreation", alone=False),
    Case(argo, argo_key("sync-wave"), "1st", "has to be a whole number in quotes"),
    Case(argo, "spec.ttlSecondsAfterFinished", 60, "ttlSecondsAfterFinished on a hook"),
    Case(argo, "metadata.annotations", {}, "Secret bookshop-database is used at PreSync, and not there yet", at=1),
    Case(argo, argo_key("sync-wave"), "0", "Secret bookshop-database needs a lower argocd.*sync-wave than 0", at=1),
    Case(flux, "spec.ttlSecondsAfterFinished", 60, "ttlSecondsAfterFinished under Flux"),
]

CASES = [*POLICY, *SECURITY, *SETTINGS, *RESOURCES, *VOLUMES, *NAMES, *HOOKS]


@pytest.mark.parametrize(
    "sound",
    [job, waiting, migrating, helm, argo, flux, service, two_jobs, limited, helm_and_more],
    ids=lambda make: make.__name__,
)
def test_what_is_changed_was_sound(sound: Callable[[], Documents]) -> None:
    assert checks.faults(sound()) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_is_found(case: Case) -> None:
    found = checks.faults(changed(case))
    assert any(re.search(case.fault, fault) for fault in found), found
    if case.alone:
        assert len(found) == 1, found


def sentences() -> dict[str, re.Pattern[str]]:
    """Everything that the checks can say, from their source, and how to know it again."""
    found = {}
    for module in (failure_policy, pod_security, running, naming, hooks):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            said = node.value if isinstance(node, ast.Yield) else None
            if isinstance(said, ast.Constant):
                found[f"{module.__name__}: {said.value}"] = re.compile(re.escape(str(said.value)))
            elif isinstance(said, ast.JoinedStr):
                parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in said.values]
                found[f"{module.__name__}: {ast.unparse(said)}"] = re.compile("".join(parts))
    return found


SENTENCES = sentences()


@functools.cache
def said() -> list[str]:
    changes = [changed(case) for case in CASES]
    return [
        fault for documents in changes for check in (checks.faults, checks.unnamed_by_tag) for fault in check(documents)
    ]


def test_the_sentences_are_found_in_the_source() -> None:
    assert len(SENTENCES) > 80


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_sentence_of_the_checks_is_said_of_one_of_these_manifests(sentence: str) -> None:
    assert any(SENTENCES[sentence].search(fault) for fault in said())


def test_a_sync_hook_needs_what_it_uses_in_a_lower_wave() -> None:
    documents = argo()
    documents[0]["metadata"]["annotations"]["argocd.argoproj.io/hook"] = "Sync"
    for other in documents[1:]:
        other["metadata"]["annotations"] = {"argocd.argoproj.io/sync-wave": "-1"}
    assert checks.faults(documents) == []
    documents[1]["metadata"]["annotations"] = {}
    [fault] = checks.faults(documents)
    assert "needs a lower" in fault


@pytest.mark.parametrize(
    ("name", "image", "good"),
    [
        ("bookshop-migrate-1-4-2", "registry.example.com:5000/bookshop-migrate:1.4.2", True),
        ("bookshop-migrate-1.4.2", "bookshop-migrate:1.4.2", True),
        ("bookshop-migrate-v1-4-2-rc-1", "bookshop-migrate:V1.4.2_rc.1", True),
        ("bookshop-migrate-1-4-2", "bookshop-migrate:1.4.3", False),
        ("bookshop-migrate", "bookshop-migrate:1.4.2", False),
        ("bookshop-migrate-5000", "registry.example.com:5000/bookshop-migrate", False),
    ],
)
def test_a_name_carries_the_tag_of_its_image_or_not(name: str, image: str, good: bool) -> None:
    [document] = job()
    document["metadata"]["name"] = name
    document["spec"]["template"]["spec"]["containers"][0]["image"] = image
    assert (checks.unnamed_by_tag([document]) == []) is good


def test_a_url_may_take_the_password_from_a_variable_before_it() -> None:
    [document] = job()
    variables = document["spec"]["template"]["spec"]["containers"][0]["env"]
    variables.append(env("PASSWORD", secretKeyRef={"name": "bookshop-database", "key": "password"}))
    variables.append(ours("DATABASE_URL", "postgresql+psycopg://shop:$(PASSWORD)@db/shop"))
    assert checks.faults([document]) == []
    variables.append(variables.pop(-2))
    [fault] = checks.faults([document])
    assert "PASSWORD is not given before it" in fault


def test_documents_in_a_list_and_empty_ones_are_looked_at() -> None:
    [document] = job()
    document["spec"]["backoffLimit"] = 3
    del document["spec"]["podFailurePolicy"]
    assert len(checks.faults([None, {"apiVersion": "v1", "kind": "List", "items": [document]}])) == 1
