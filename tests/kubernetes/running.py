"""What a pod gives to the program: its settings, secrets, resources and time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from runner.errors import SettingsInvalid
from runner.settings import FIELDS, OTHER_URLS, PREFIX, SECRET, WITH_FILE, Settings, duration, url_problem, variable
from tests.kubernetes.objects import Container, Object, Pod

_FILES = {f"{variable(field)}_FILE" for field in WITH_FILE}
READ = {variable(field) for field in FIELDS} | _FILES
PATHS = {variable("secrets_dir"), *_FILES}
QUIT_URL = f"{PREFIX}SIDECAR_QUIT_URL"
FIELD_PATHS = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName"}
LEFT_ALONE = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
OTHERS_READ = 0o004
# What Kubernetes puts in for $(NAME), and a password that stands there as it is.
_REFERENCE = re.compile(r"(?<!\$)\$\(([\w.-]+)\)")
_PASSWORD = re.compile(r"://[^/@:\s]*:(?!\$\()[^/@\s]+@")
UNDOING_S = 10
PROGRESS_S = 600  # Kubernetes' own default


def faults(every: Iterable[Object]) -> Iterator[str]:
    for each in every:
        if not (pod := each.pod):
            continue
        yield from (f"{each}: {fault}" for fault in _volumes(pod))
        for container in pod.ours:
            for check in (_arguments, _settings, _told, _secrets, _image, _resources, _ending):
                yield from (f"{container}: {fault}" for fault in check(container))
        for container in pod.migrating:
            yield from (f"{container}: {fault}" for fault in _stopping(container))
        for container in pod.init:
            if any(env.get("name") == QUIT_URL for env in container.env):
                yield f"{container}: {QUIT_URL} would stop the sidecar that the containers after it need"
        if pod.ours and each.kind in ("Job", "Pod"):
            yield from (f"{each}: {fault}" for fault in _of_pod(pod))
        if each.kind == "Job":
            yield from (f"{each}: {fault}" for fault in _deadline(each, pod))
        if each.kind == "Deployment":
            yield from (f"{each}: {fault}" for fault in _progress(each, pod))


def _arguments(container: Container) -> Iterator[str]:
    try:
        _ = container.options
    except SettingsInvalid as error:
        yield f"the program refuses its arguments: {error}"


def _settings(container: Container) -> Iterator[str]:
    """The variables, as the program reads them."""
    for name, count in Counter(env.get("name") for env in container.env).items():
        if count > 1:
            yield f"{name} is given {count} times"
    given: set[str] = set()
    for env in container.env:
        name = str(env.get("name"))
        for other in sorted(set(_REFERENCE.findall(str(env.get("value", "")))) - given):
            if "envFrom" not in container.spec:
                yield f"{name}: Kubernetes leaves $({other}) as it is, since {other} is not given before it"
        given.add(name)
        if _PASSWORD.search(str(env.get("value", ""))):
            yield f"{name} has a password: it belongs into a Secret, and not into the manifest"
        if not name.startswith(PREFIX):
            continue
        if name not in READ:
            yield f"{name} is no variable that the program reads"
        elif "value" in env and (field := name.removeprefix(PREFIX).lower()) in FIELDS:
            yield from _value(field, env["value"])


def _value(field: str, text: Any) -> Iterator[str]:
    name = variable(field)
    if not isinstance(text, str):
        yield f"{name}: {text!r} has to be in quotes"
        return
    if field in SECRET and not _REFERENCE.search(text) and not _PASSWORD.search(text):
        yield f"{name} belongs into a Secret, and not into the manifest"
    if field in ("database_url", *OTHER_URLS) and text and (said := url_problem(text)):
        yield f"{name}: {said[0]}"
    if field == "target" and re.search(r"(?:^|[\s@:])[+-]\d", text):
        yield f"{name}: a relative target is refused, since a retry would repeat it"
    try:
        values: dict[str, Any] = {field: text} if text else {}
        Settings(**values)
    except ValidationError as error:
        yield f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"


def _told(container: Container) -> Iterator[str]:
    """What makes its lines say where they come from."""
    if container.value("log_format") != "json":
        yield f"{variable('log_format')} has to be json"
    if container.value("image") != container.spec.get("image"):
        yield f"{variable('image')} is {container.value('image')}, and the image {container.spec.get('image')}"
    for name, path in FIELD_PATHS.items():
        sources = [env.get("valueFrom") or {} for env in container.env if env.get("name") == name]
        if [(source.get("fieldRef") or {}).get("fieldPath") for source in sources] != [path]:
            yield f"{name} has to come from the field {path}"


def _secrets(container: Container) -> Iterator[str]:
    """A file that a variable names is in a volume that is mounted."""
    mounted = {PurePosixPath(str(mount.get("mountPath"))): mount.get("name") for mount in container.mounts}
    volumes = {volume.get("name"): volume for volume in container.pod.volumes}
    for env in container.env:
        name, path = str(env.get("name")), PurePosixPath(str(env.get("value")))
        if name not in PATHS or "value" not in env:
            continue
        holding = next((mount for mount in (path, *path.parents) if mount in mounted), None)
        if holding is None:
            yield f"{name}: nothing is mounted at {path} or above"
            continue
        items = ((volumes.get(mounted[holding]) or {}).get("secret") or {}).get("items")
        if items and holding != path and str(path.relative_to(holding)) not in {item.get("path") for item in items}:
            yield f"{name}: the volume {mounted[holding]} has no {path.relative_to(holding)}"


def _image(container: Container) -> Iterator[str]:
    image = str(container.spec.get("image"))
    if "@sha256:" not in image and tag(image) in ("", "latest"):
        yield f"the image {image} has no tag that stays what it is"


def tag(image: str) -> str:
    """What is behind the colon; a registry's port is not."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def _resources(container: Container) -> Iterator[str]:
    resources = container.spec.get("resources") or {}
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for kind, given, needed in (("requests", requests, {"cpu", "memory"}), ("limits", limits, {"memory"})):
        if missing := needed - given.keys():
            yield f"resources: no {kind} of {', '.join(sorted(missing))}"
    if "cpu" in limits:
        yield "resources: a limit of cpu makes a migration slower, and its locks longer"


def _ending(container: Container) -> Iterator[str]:
    if container.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        yield "terminationMessagePolicy has to be FallbackToLogsOnError"
    path = container.spec.get("terminationMessagePath")
    if path and container.value("termination_log") != path:
        yield f"terminationMessagePath is {path}, and the program is not told: {variable('termination_log')}"
    for key in ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
        if key in container.spec:
            yield f"{key}: it serves nothing, and must not be killed for that"


def _length(container: Container, field: str) -> timedelta | None:
    """A duration; one that is none is another check's."""
    try:
        value = container.value(field)
        return None if value is None else duration(value)
    except ValueError:
        return None


def _stopping(container: Container) -> Iterator[str]:
    grace, lock = _length(container, "stop_grace"), _length(container, "lock_timeout")
    patience_s = container.pod.spec.get("terminationGracePeriodSeconds", 30)
    if grace and grace.total_seconds() + UNDOING_S > patience_s:
        yield (
            f"{variable('stop_grace')} is {grace.total_seconds():g} s, and terminationGracePeriodSeconds {patience_s}:"
            f" it has to be {UNDOING_S} s less, for the server to undo what is cancelled"
        )
    if grace and lock and grace >= lock:
        yield (
            f"{variable('stop_grace')} is {grace.total_seconds():g} s, and {variable('lock_timeout')}"
            f" {lock.total_seconds():g} s: who comes next gives up before this one has stopped"
        )


def _of_pod(pod: Pod) -> Iterator[str]:
    """Of a pod that is the program's alone."""
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken has to be false: it asks nothing of the API server"
    if pod.spec.get("enableServiceLinks") is not False:
        yield "enableServiceLinks has to be false: a Service called alembic-job would make variables of the program's"
    if not pod.migrating:
        return
    for key, value in LEFT_ALONE.items():
        if pod.annotations.get(key) != value:
            yield f'the pod needs the annotation {key}: "{value}"'


def _volumes(pod: Pod) -> Iterator[str]:
    names = [str(volume.get("name")) for volume in pod.volumes]
    mounted = {str(mount.get("name")) for container in pod.containers for mount in container.mounts}
    for name in sorted(mounted - set(names)):
        yield f"volume {name} is mounted, and there is none"
    for name in sorted(set(names) - mounted):
        yield f"volume {name} is mounted nowhere"
    for name, count in Counter(names).items():
        if count > 1:
            yield f"volume {name} is there {count} times"
    for container in pod.containers:
        for path, count in Counter(mount.get("mountPath") for mount in container.mounts).items():
            if count > 1:
                yield f"container {container.name} has {count} mounts at {path}"
    for volume in pod.volumes:
        mode = (volume.get("secret") or {}).get("defaultMode", 0o644)
        if not isinstance(mode, int) or not 0 <= mode <= 0o777:
            yield f"volume {volume.get('name')}: defaultMode {mode!r} is none"
        elif not mode & OTHERS_READ and "fsGroup" not in pod.security:
            yield f"volume {volume.get('name')}: with mode {mode:04o} only root can read it, unless the pod has fsGroup"


def _attempt_s(container: Container) -> float | None:
    """How long one attempt may take at most; None when nothing says."""
    fields = (
        ("wait_timeout", "target_timeout")
        if container.command == "wait"
        else ("wait_timeout", "lock_timeout", "timeout")
    )
    lengths = [_length(container, field) for field in fields]
    return None if None in lengths else sum(length.total_seconds() for length in lengths if length)


def _pauses_s(retries: int) -> int:
    """Of the Job controller, between attempts."""
    return sum(min(10 * 2**attempt, 360) for attempt in range(retries))


def _deadline(job: Object, pod: Pod) -> Iterator[str]:
    """A deadline ends whatever runs; it may come only when every attempt has had its time."""
    retries = int(job.spec.get("backoffLimit", 6))
    for where, given, attempts, pauses_s in (
        ("activeDeadlineSeconds", job.spec.get("activeDeadlineSeconds"), retries + 1, _pauses_s(retries)),
        ("activeDeadlineSeconds of the pod", pod.spec.get("activeDeadlineSeconds"), 1, 0),
    ):
        for container in pod.migrating if given is not None else ():
            attempt_s = _attempt_s(container)
            if attempt_s is None:
                yield f"{where} would end a migration midway: set {variable('timeout')} too, or leave it out"
            elif given < attempts * attempt_s + pauses_s:
                yield (
                    f"{where} is {given}, and {attempts} attempts may take {attempts * attempt_s + pauses_s:g} s:"
                    f" {variable('wait_timeout')}, {variable('lock_timeout')} and {variable('timeout')} each time,"
                    " and the pauses"
                )


def _progress(deployment: Object, pod: Pod) -> Iterator[str]:
    """A rollout that waits for a migration has not failed."""
    progress_s = deployment.spec.get("progressDeadlineSeconds", PROGRESS_S)
    needed_s = 0.0
    for container in pod.ours:
        attempt_s = _attempt_s(container)
        if attempt_s is None:
            yield f"container {container.name} may take any time: set {variable('timeout')}"
            return
        needed_s += attempt_s
    if needed_s and progress_s <= needed_s:
        yield f"progressDeadlineSeconds is {progress_s}, and the containers that come first may take {needed_s:g} s"
