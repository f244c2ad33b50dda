"""A pod's manifest, as the engine runs its container: what people copy is what is tested.

Read out of it: user, groups, privileges, capabilities, root file system, memory, environment, volumes, arguments,
grace. What stands there and is not known here is an error, so that nothing is left out unseen. What kubelet adds is
made here: the file of the termination message, and secrets as it lays them out.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.settings import duration
from tests.image.containers import ROOT, Container, docker
from tests.kubernetes import helm

NAMESPACE, NODE = "shop", "node-7"
UNITS = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
# What an API server, a scheduler or kubelet does with; the engine has no part in it.
_OF_THE_CLUSTER = {
    *("restartPolicy", "automountServiceAccountToken", "enableServiceLinks", "serviceAccountName", "priorityClassName"),
    *("nodeSelector", "tolerations", "affinity"),
}
_OF_THE_POD = {"containers", "volumes", "securityContext", "terminationGracePeriodSeconds"}
_OF_THE_CONTAINER = {
    *("name", "image", "imagePullPolicy", "args", "env", "securityContext", "resources", "volumeMounts"),
    "terminationMessagePolicy",
}


@dataclass(frozen=True)
class Manifest:
    """The document of a Job or a Deployment. ``which`` of its pod's lists holds the one container that is run."""

    document: Mapping[str, Any]
    which: str = "containers"

    @property
    def pod(self) -> Mapping[str, Any]:
        """What the pod is made of."""
        spec: Mapping[str, Any] = self.document["spec"]["template"]["spec"]
        unknown = set(spec) - _OF_THE_CLUSTER - _OF_THE_POD - {self.which}
        assert not unknown, f"not known here: {unknown}"
        return spec

    @property
    def container(self) -> Mapping[str, Any]:
        """The container that is run."""
        found: Mapping[str, Any]
        [found] = self.pod[self.which]
        assert set(found) <= _OF_THE_CONTAINER, f"not known here: {set(found) - _OF_THE_CONTAINER}"
        return found

    @property
    def image(self) -> str:
        """Whose image it names."""
        return str(self.container["image"])

    @property
    def grace_s(self) -> int:
        """From SIGTERM to SIGKILL."""
        return int(self.pod.get("terminationGracePeriodSeconds", 30))

    @property
    def memory(self) -> int:
        """The limit, in bytes."""
        text = str(self.container["resources"]["limits"]["memory"])
        return int(text[:-2]) * UNITS[text[-2:]]


def manifest(path: str = "k8s/job.yaml") -> Manifest:
    """The Job of a file that holds one."""
    return Manifest(_one(path, "Job"))


def waiting(path: str) -> Manifest:
    """The init container of a file's Deployment."""
    return Manifest(_one(path, "Deployment"), "initContainers")


def chart() -> Manifest:
    """The Job that the chart makes of what nobody can do without: a hook."""
    return Manifest(helm.one(helm.template("helm4", helm.NEEDED), "Job"))


def _one(path: str, kind: str) -> Mapping[str, Any]:
    return helm.one(list(yaml.safe_load_all((ROOT / path).read_text())), kind)


def security(manifest: Manifest) -> Iterator[str]:
    """The security contexts as options of the engine. What both of them say is the container's."""
    pod, container = manifest.pod["securityContext"], manifest.container["securityContext"]
    of_both = {"runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile"}
    known = of_both | {"fsGroup", "fsGroupChangePolicy"}
    assert set(pod) <= known, f"not known here: {set(pod) - known}"
    known = of_both | {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}
    assert set(container) <= known, f"not known here: {set(container) - known}"
    both = {**pod, **container}
    assert both["runAsUser"] or not both["runAsNonRoot"]
    yield f"--user={both['runAsUser']}:{both['runAsGroup']}"
    if "fsGroup" in pod:
        yield f"--group-add={pod['fsGroup']}"
    # The engine's own profile is what RuntimeDefault means; "unconfined" would have to be asked for.
    assert both["seccompProfile"] == {"type": "RuntimeDefault"}
    if container["allowPrivilegeEscalation"] is False:
        yield "--security-opt=no-new-privileges"
    if container["readOnlyRootFilesystem"]:
        yield "--read-only"
    assert set(container["capabilities"]) == {"drop"}
    yield from (f"--cap-drop={name}" for name in container["capabilities"]["drop"])


class Secret:
    """A Secret as kubelet mounts it: a change swaps one symlink, so a reader sees the old or the new, never half."""

    def __init__(self, directory: Path, *, mode: int, group: int | None, image: str) -> None:
        self.path = directory
        self._mode = mode
        self._group = group
        self._image = image
        directory.mkdir()
        directory.chmod(0o755)

    def write(self, **keys: str) -> None:
        """Set all keys at once."""
        now = self.path / f"..{time.time_ns()}"
        now.mkdir(mode=0o755)
        for key, value in keys.items():
            (now / key).write_text(value)
            (now / key).chmod(self._mode)
        self._own(now)
        (self.path / "..data_tmp").symlink_to(now.name)
        (self.path / "..data_tmp").rename(self.path / "..data")
        for key in keys:
            if not (self.path / key).is_symlink():
                (self.path / key).symlink_to(f"..data/{key}")
        for old in self.path.glob("..[0-9]*"):
            if old != now:
                for file in old.iterdir():
                    file.unlink()
                old.rmdir()

    def _own(self, directory: Path) -> None:
        """Root's, and readable for the group of the pod."""
        group = self._group if self._group is not None else 0
        if os.geteuid() == 0:
            for file in directory.iterdir():
                os.chown(file, 0, group)
        else:
            command = ["--entrypoint=chown", self._image, "-R", f"0:{group}", "/secret"]
            docker("run", "--rm", "--user=0", f"--volume={directory}:/secret", *command)


@dataclass
class Pod:
    """A pod that runs."""

    name: str
    manifest: Manifest
    container: Container
    secret: Secret
    log: Path

    @property
    def job(self) -> Any:
        """Its output."""
        return self.container.job

    def message(self) -> dict[str, Any]:
        """The termination message."""
        data = self.log.read_bytes()
        assert len(data) <= 1024
        said: dict[str, Any] = json.loads(data)
        return said

    def state(self) -> dict[str, Any]:
        """What the engine says of it."""
        found: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", self.container.name))
        return found

    def delete(self) -> float:
        """What kubelet does with a deleted pod: SIGTERM, the grace, SIGKILL. How many seconds that took."""
        return self.container.stop(self.manifest.grace_s)


def start(
    manifest: Manifest,
    directory: Path,
    image: str,
    *arguments: str,
    secret: Mapping[str, str] | None,
    project: Path | None,
    env: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
) -> Pod:
    """Start a pod of the manifest with this image. ``env`` and ``options`` stand above what the manifest says.

    ``secret``: the keys of the Secret that it mounts; None: there is none, and the volume is optional.
    """
    name = f"{manifest.document['metadata']['name']}-{secrets.token_hex(3)}"
    home = directory / name
    home.mkdir()
    log = home / "termination-log"
    log.touch()
    log.chmod(0o666)
    group = manifest.pod["securityContext"].get("fsGroup")
    volumes: dict[str, Secret | Mapping[str, Any]] = {}
    mounted = None
    for volume in manifest.pod["volumes"]:
        if "emptyDir" in volume:
            volumes[volume["name"]] = volume["emptyDir"]
            continue
        assert set(volume) == {"name", "secret"}
        assert mounted is None
        said = volume["secret"]
        volumes[volume["name"]] = mounted = Secret(
            home / volume["name"], mode=said.get("defaultMode", 0o644), group=group, image=image
        )
        assert secret is not None or said.get("optional"), "kubelet would not start this pod"
        if secret is not None:
            mounted.write(**secret)
    assert mounted is not None
    given = [*security(manifest), f"--memory={manifest.memory}", f"--memory-swap={manifest.memory}"]
    given += [f"--hostname={name}"[: len("--hostname=") + 63], f"--volume={log}:/dev/termination-log"]
    for mount in manifest.container["volumeMounts"]:
        what = volumes[mount["name"]]
        if isinstance(what, Secret):
            assert mount["readOnly"]
            given.append(f"--volume={what.path}:{mount['mountPath']}:ro")
        else:
            size = str(what["sizeLimit"])
            limit = int(size[:-2]) * UNITS[size[-2:]]
            given.append(f"--tmpfs={mount['mountPath']}:exec,mode=1777,size={limit}")
    variables = {**environment(manifest, name), **(env or {})}
    given += [f"--env={key}={value}" for key, value in variables.items()]
    given += [f"--volume={project}:/app:ro"] if project else []
    resources = manifest.container["resources"]
    assert set(resources["limits"]) == {"memory"}, "the engine is told of memory alone"
    arguments = arguments or tuple(manifest.container.get("args", ()))
    command = ["--network=host", *given, *options, image, *arguments]
    return Pod(name, manifest, Container(command), mounted, log)


def environment(manifest: Manifest, name: str) -> dict[str, str]:
    """The variables of the container, those of the downward API included."""
    known = {"metadata.name": name, "metadata.namespace": NAMESPACE, "spec.nodeName": NODE}
    found = {}
    for variable in manifest.container["env"]:
        if "value" in variable:
            found[variable["name"]] = str(variable["value"])
        else:
            found[variable["name"]] = known[variable["valueFrom"]["fieldRef"]["fieldPath"]]
    return found


def stop_grace_s(manifest: Manifest) -> float:
    """How long a statement may go on after SIGTERM."""
    return duration(environment(manifest, "")["ALEMBIC_JOB_STOP_GRACE"]).total_seconds()
