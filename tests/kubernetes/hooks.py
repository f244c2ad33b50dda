"""Hooks of Helm and Argo CD, and what Flux does to a Job.

https://helm.sh/docs/topics/charts_hooks/ and https://argo-cd.readthedocs.io/en/stable/user-guide/sync-waves/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.kubernetes.objects import Object, Pod


@dataclass(frozen=True)
class Tool:
    """How one of them is told what is a hook, when, and when it goes away."""

    name: str
    hook: str
    order: str  # of hooks of one event, lower first
    delete: str
    events: frozenset[str]
    policies: frozenset[str]
    replaced: str  # the policy that makes room for the next run, and keeps what happened until then
    gone: str  # the policy that deletes what went well
    plain: frozenset[str]  # the events at which objects come that are no hooks


HELM = Tool(
    "Helm",
    "helm.sh/hook",
    "helm.sh/hook-weight",
    "helm.sh/hook-delete-policy",
    frozenset(f"{when}-{what}" for when in ("pre", "post") for what in ("install", "upgrade", "rollback", "delete"))
    | {"test"},
    frozenset({"before-hook-creation", "hook-succeeded", "hook-failed"}),
    "before-hook-creation",
    "hook-succeeded",
    frozenset(),
)
ARGO = Tool(
    "Argo CD",
    "argocd.argoproj.io/hook",
    "argocd.argoproj.io/sync-wave",
    "argocd.argoproj.io/hook-delete-policy",
    frozenset({"PreSync", "Sync", "Skip", "PostSync", "SyncFail", "PreDelete", "PostDelete"}),
    frozenset({"HookSucceeded", "HookFailed", "BeforeHookCreation"}),
    "BeforeHookCreation",
    "HookSucceeded",
    frozenset({"Sync"}),
)
TOOLS = (HELM, ARGO)
# Helm's events after which everything else of the release is there, and Argo CD's.
LATE = {"post-install", "post-upgrade", "post-rollback", "post-delete", "pre-delete", "pre-rollback", "test"}
LATE |= {"PostSync", "SyncFail", "PreDelete", "PostDelete"}
# Its Kustomizations make anew what is gone. A HelmRelease does not, and a retry makes another Job.
FLUX = re.compile(r"kustomize\.toolkit\.fluxcd\.io/")
USED = ("Secret", "ServiceAccount", "ConfigMap")


def faults(every: Iterable[Object]) -> Iterator[str]:
    everything = list(every)
    for each in everything:
        for tool in TOOLS:
            yield from (f"{each}: {fault}" for fault in _annotations(each, tool))
            yield from (f"{each}: {fault}" for fault in _of_job(each, tool))
            yield from (f"{each}: {fault}" for fault in _before(each, everything, tool))
        if all(tool.hook in each.annotations for tool in TOOLS):
            yield f"{each}: hook of Helm and of Argo CD at once; Argo CD then ignores Helm's"
        if each.kind == "Job" and any(map(FLUX.match, each.annotations)):
            yield from (f"{each}: {fault}" for fault in _under_flux(each))


def _words(text: str | None) -> set[str]:
    return {word.strip() for word in (text or "").split(",") if word.strip()}


def _whole(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[+-]?\d+", text) is not None


def _place(each: Object, tool: Tool) -> int:
    text = each.annotations.get(tool.order, "0")
    return int(text) if _whole(text) else 0


def _annotations(each: Object, tool: Tool) -> Iterator[str]:
    for key, known in ((tool.hook, tool.events), (tool.delete, tool.policies)):
        if key in each.annotations and not _words(each.annotations[key]):
            yield f"{key} is empty"
        for word in sorted(_words(each.annotations.get(key)) - known):
            yield f"{key}: {tool.name} knows no {word}, only {', '.join(sorted(known))}"
    if tool.order in each.annotations and not _whole(each.annotations[tool.order]):
        yield f"{tool.order} has to be a whole number in quotes, and is {each.annotations[tool.order]!r}"
    if tool.hook not in each.annotations and tool.delete in each.annotations:
        yield f"{tool.delete} on what is no hook"


def _of_job(each: Object, tool: Tool) -> Iterator[str]:
    if each.kind != "Job" or tool.hook not in each.annotations:
        return
    policies = _words(each.annotations.get(tool.delete))
    if tool.replaced not in policies:
        yield f"{tool.delete} needs {tool.replaced}: the next release could not make the Job anew"
    if other := policies & tool.policies - {tool.replaced}:
        yield f"{tool.delete} has {', '.join(sorted(other))}: the logs would go away with the Job"
    if "ttlSecondsAfterFinished" in each.spec:
        yield f"ttlSecondsAfterFinished on a hook: {tool.name} or a person may look for it when it is gone"


def _under_flux(job: Object) -> Iterator[str]:
    if "ttlSecondsAfterFinished" in job.spec:
        yield "ttlSecondsAfterFinished under Flux: once the Job is gone, Flux makes it anew, and it runs again"


def _before(each: Object, everything: list[Object], tool: Tool) -> Iterator[str]:
    """What a hook's pod uses has to be there before it, and what other pods use has to stay."""
    if not each.pod:
        return
    all_events = _words(each.annotations.get(tool.hook))
    events = all_events - LATE
    used = _used(each.pod)
    for other in everything:
        if (other.kind, other.name) not in used:
            continue
        own = _words(other.annotations.get(tool.hook))
        if own and tool.gone in _words(other.annotations.get(tool.delete)) and not (all_events and all_events <= own):
            yield f"{other} is used, and goes away after its hooks: {tool.delete} has {tool.gone}"
        at = own or tool.plain
        if missing := events - at - (frozenset({"Sync"}) if "PreSync" in at else frozenset()):
            yield f"{other} is used at {', '.join(sorted(missing))}, and not there yet: make it a hook of lower weight"
        elif events & at and _place(other, tool) >= _place(each, tool):
            yield f"{other} needs a lower {tool.order} than {_place(each, tool)}, and has {_place(other, tool)}"


def _used(pod: Pod) -> set[tuple[str, str]]:
    """Kind and name of what the pod cannot do without."""
    found = {("ServiceAccount", str(pod.spec.get("serviceAccountName")))}
    found |= {("Secret", str(secret.get("name"))) for secret in pod.spec.get("imagePullSecrets") or []}
    for volume in pod.volumes:
        parts = [volume, *((volume.get("projected") or {}).get("sources") or [])]
        for part in parts:
            if secret := part.get("secret"):
                found.add(("Secret", str(secret.get("secretName") or secret.get("name"))))
            if config := part.get("configMap"):
                found.add(("ConfigMap", str(config.get("name"))))
    for container in pod.containers:
        for source in [*(env.get("valueFrom") or {} for env in container.env), *(container.spec.get("envFrom") or [])]:
            for key, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
                for ending in ("KeyRef", "Ref"):
                    if reference := source.get(f"{key}{ending}"):
                        found.add((kind, str(reference.get("name"))))
    return found
