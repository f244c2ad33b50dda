"""The restricted Pod Security Standard in full, which is the baseline's rules and its own.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.kubernetes.objects import Container, Pod

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
PROFILES = {"RuntimeDefault", "Localhost"}
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def faults(every: Iterable[Pod]) -> Iterator[str]:
    for pod in every:
        yield from (f"{pod.owner}: {fault}" for fault in _of_pod(pod))
        for container in pod.containers:
            yield from (f"{container}: {fault}" for fault in _of_container(container))


def _of_pod(pod: Pod) -> Iterator[str]:
    for namespace in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(namespace):
            yield f"{namespace} is on"
    for volume in pod.volumes:
        if other := volume.keys() - VOLUMES - {"name"}:
            yield f"volume {volume.get('name')} is a {', '.join(sorted(other))}, which the restricted standard forbids"
    for sysctl in pod.security.get("sysctls") or []:
        if sysctl.get("name") not in SYSCTLS:
            yield f"sysctl {sysctl.get('name')} is none of the safe ones"
    if 0 in {pod.security.get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")}:
        yield "securityContext of the pod: 0 is root"
    for key, profile in pod.annotations.items():
        if key.startswith(APPARMOR) and profile not in ("runtime/default",) and not profile.startswith("localhost/"):
            yield f"AppArmor is {profile}"
    yield from _of_context(pod.security)


def _of_context(context: Mapping[str, Any]) -> Iterator[str]:
    """What is forbidden for a pod and for a container alike."""
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"seLinuxOptions {dict(selinux)} are not allowed"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess is on"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in PROFILES:
        yield f"appArmorProfile is {context['appArmorProfile']['type']}"


def _of_container(container: Container) -> Iterator[str]:
    own, pods = container.security, container.pod.security
    yield from _of_context(own)
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation has to be false"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield "capabilities have to drop ALL"
    if added := set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"capabilities add {', '.join(sorted(added))}"
    if own.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot has to be true"
    user = own.get("runAsUser", pods.get("runAsUser"))
    if user == 0:
        yield "runAsUser is root"
    if container.ours and not isinstance(user, int):
        # An image whose USER is a name is refused beside runAsNonRoot: kubelet cannot look the name up.
        yield "runAsUser has to be a number"
    profile = (own.get("seccompProfile") or pods.get("seccompProfile") or {}).get("type")
    if profile not in PROFILES:
        yield f"seccompProfile is {profile}, and has to be RuntimeDefault"
    if own.get("procMount", "Default") != "Default":
        yield f"procMount is {own['procMount']}"
    if any(port.get("hostPort") for port in container.spec.get("ports") or []):
        yield "it has a hostPort"
    if container.ours and own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem has to be true: the program writes no files"
    yield from _of_handlers(container.spec)


def _of_handlers(spec: Mapping[str, Any]) -> Iterator[str]:
    """Since Kubernetes 1.34 no probe may ask another host."""
    lifecycle = spec.get("lifecycle") or {}
    handlers = [spec.get(f"{probe}Probe") for probe in ("liveness", "readiness", "startup")]
    for handler in [*handlers, lifecycle.get("postStart"), lifecycle.get("preStop")]:
        for way in ("httpGet", "tcpSocket"):
            if ((handler or {}).get(way) or {}).get("host"):
                yield f"a probe or lifecycle handler asks another host: {handler[way]['host']}"
