"""podFailurePolicy against the exit codes of the program.

What the API server demands: https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner.errors import ExitCode
from tests.kubernetes.objects import Object

# No failure, and nothing that a Job could see from "upgrade".
ANSWERS = {ExitCode.OK, ExitCode.PENDING, ExitCode.DRIFT, ExitCode.FINDINGS}
# What the first rule has: the failures that no retry can help.
CODES = sorted(int(code) for code in ExitCode if not code.retryable and code not in ANSWERS)
# Of the container runtime: not started (125-127), or ended by SIGABRT, SIGKILL, memory, SIGSEGV.
RUNTIME = (125, 126, 127, 134, 137, 139)
# Everything that a Job can end with, and a person or the next attempt has to know of.
FAILURES = sorted({*(int(code) for code in ExitCode if code not in ANSWERS), *RUNTIME})

ACTIONS = ("FailJob", "FailIndex", "Ignore", "Count")
OPERATORS = ("In", "NotIn")
STATUSES = ("True", "False", "Unknown")


def faults(every: Iterable[Object]) -> Iterator[str]:
    for job in every:
        if job.kind == "Job" and (pod := job.pod) and pod.migrating:
            yield from (f"{job}: {fault}" for fault in _of_job(job))


def _of_job(job: Object) -> Iterator[str]:
    assert job.pod
    restart = job.pod.spec.get("restartPolicy")
    if restart != "Never":
        yield f"restartPolicy is {restart}: podFailurePolicy needs Never, and OnFailure loses the logs of a failure"
    if "backoffLimit" not in job.spec:
        yield "no backoffLimit: the default, 6, is a quarter of an hour of attempts"
    for key in ("parallelism", "completions"):
        if job.spec.get(key, 1) != 1:
            yield f"{key} is {job.spec[key]}: one pod is enough, and others would wait for its lock"
    if job.spec.get("podReplacementPolicy", "Failed") != "Failed":
        yield "podReplacementPolicy has to be Failed beside a podFailurePolicy"
    rules = (job.spec.get("podFailurePolicy") or {}).get("rules") or []
    if not rules:
        yield "no podFailurePolicy: what no retry can help is retried"
        return
    names = [container.name for container in job.pod.containers]
    malformed = [fault for number, rule in enumerate(rules, 1) for fault in _malformed(number, rule, names)]
    yield from malformed
    if not malformed:
        yield from _order(rules)
        for container in job.pod.migrating:
            yield from _outcomes(rules, container.name)


def _malformed(number: int, rule: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    """What the API server refuses, or does not know."""
    here = f"podFailurePolicy, rule {number}"
    if rule.get("action") not in ACTIONS:
        yield f"{here}: action {rule.get('action')} is none of {', '.join(ACTIONS)}"
    if rule.get("action") == "FailIndex":
        yield f"{here}: FailIndex is for indexed Jobs"
    # An empty list counts as none: https://github.com/kubernetes/kubernetes/pull/120204
    if bool(rule.get("onExitCodes")) == bool(rule.get("onPodConditions")):
        yield f"{here}: one of onExitCodes and onPodConditions is needed, and not both"
    if codes := rule.get("onExitCodes"):
        values = codes.get("values") or []
        if codes.get("operator") not in OPERATORS:
            yield f"{here}: operator {codes.get('operator')} is none of {', '.join(OPERATORS)}"
        if values != sorted(set(values)) or not values or len(values) > 255:
            yield f"{here}: values have to be 1 to 255 codes in ascending order, none twice"
        if 0 in values and codes.get("operator") == "In":
            yield f"{here}: 0 is no failure"
        if "containerName" not in codes:
            yield f"{here}: no containerName: the exit code of an injected sidecar would decide"
        elif codes["containerName"] not in names:
            yield f"{here}: there is no container {codes['containerName']}"
    for condition in rule.get("onPodConditions") or []:
        if condition.get("status") not in STATUSES:
            yield f"{here}: status {condition.get('status')!r} is none of {', '.join(STATUSES)}"


def _order(rules: list[Mapping[str, Any]]) -> Iterator[str]:
    """The first rule that matches decides: a drained node must not turn a lasting failure into another attempt."""
    disruption = [n for n, rule in enumerate(rules) if any(map(_disruption, rule.get("onPodConditions") or []))]
    codes = [n for n, rule in enumerate(rules) if rule.get("onExitCodes")]
    if not disruption or rules[disruption[0]].get("action") != "Ignore":
        yield "podFailurePolicy: no rule with Ignore on DisruptionTarget: a drained node counts as a failed attempt"
    elif codes and codes[-1] > disruption[0]:
        yield "podFailurePolicy: the rule of DisruptionTarget comes before that of the exit codes, and hides it"


def _disruption(condition: Mapping[str, Any]) -> bool:
    return condition.get("type") == "DisruptionTarget" and condition.get("status") == "True"


def _outcomes(rules: list[Mapping[str, Any]], container: str) -> Iterator[str]:
    """What each exit code comes to: the failures that last end the Job, the others are tried again."""
    for code in FAILURES:
        here = f"podFailurePolicy: exit code {code} of {container} ({_called(code)})"
        matching = [rule for rule in rules if _matches(rule, container, code)]
        if len(matching) > 1:
            yield f"{here} is in {len(matching)} rules"
        action = matching[0]["action"] if matching else "Count"
        if code in CODES and action != "FailJob":
            yield f"{here} is not in FailJob, and no retry can help"
        if code not in CODES and matching:
            yield f"{here} is in {action}, and the next attempt may pass"
    for code in sorted(ANSWERS):
        if code and any(_matches(rule, container, int(code)) for rule in rules):
            yield f"podFailurePolicy: exit code {int(code)} of {container} ({code.title}) is an answer, and no failure"


def _matches(rule: Mapping[str, Any], container: str, code: int) -> bool:
    codes = rule.get("onExitCodes")
    if not codes or codes.get("containerName", container) != container:
        return False
    return (code in codes["values"]) == (codes["operator"] == "In")


def _called(code: int) -> str:
    return "the container runtime's" if code in RUNTIME else ExitCode(code).title
