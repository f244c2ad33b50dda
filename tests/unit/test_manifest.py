"""k8s/job.yaml against the code that it names: exit codes and settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.errors import ExitCode
from runner.settings import FIELDS, WITH_FILE, duration, variable

MANIFEST = Path(__file__).parents[2] / "k8s" / "job.yaml"
# No failure, and nothing that a Job could see from "upgrade".
ANSWERS = {ExitCode.OK, ExitCode.PENDING, ExitCode.DRIFT, ExitCode.FINDINGS}


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load(MANIFEST.read_text())


@pytest.fixture
def container(job: dict[str, Any]) -> dict[str, Any]:
    [container] = job["spec"]["template"]["spec"]["containers"]
    return container


def test_the_first_rule_fails_the_job_on_exactly_the_codes_that_no_retry_can_help(job, container):
    codes = job["spec"]["podFailurePolicy"]["rules"][0]
    assert codes == {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": container["name"],
            "operator": "In",
            "values": sorted(int(code) for code in ExitCode if not code.retryable and code not in ANSWERS),
        },
    }


def test_a_disrupted_pod_does_not_count_as_a_failed_attempt(job):
    assert job["spec"]["podFailurePolicy"]["rules"][1:] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"  # or the API refuses the policy


def test_every_variable_is_one_that_the_program_reads(container):
    known = {variable(field) for field in FIELDS} | {variable(field) + "_FILE" for field in WITH_FILE}
    assert {env["name"] for env in container["env"]} <= known | {"POD_NAME", "POD_NAMESPACE", "NODE_NAME"}


def test_a_new_image_makes_a_new_job(job, container):
    tag = container["image"].rpartition(":")[2]
    assert job["metadata"]["name"].endswith(tag.replace(".", "-"))
    assert job["metadata"]["labels"]["app.kubernetes.io/version"] == tag
    assert {"name": "ALEMBIC_JOB_IMAGE", "value": container["image"]} in container["env"]


def test_the_pod_meets_the_restricted_pod_security_standard(job, container):
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {volume for spec in pod["volumes"] for volume in spec} <= {"name", "emptyDir", "secret"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_the_pod_is_given_longer_than_a_revision_after_sigterm(job, container):
    [grace] = [env["value"] for env in container["env"] if env["name"] == "ALEMBIC_JOB_STOP_GRACE"]
    patience_s = job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert duration(grace).total_seconds() + 20 <= patience_s  # for the server to undo what was cancelled
