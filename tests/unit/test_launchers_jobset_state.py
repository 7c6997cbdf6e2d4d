"""What an answer of a Kubernetes cluster means."""

import json
from typing import Any

import pytest

from launchers.job import JobStatus, SchedulerError
from launchers.jobset_state import JobSet, PodList, job_status, read_answer

RUNNING = {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": {"running": {}}}]}
UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    ],
}
NO_IMAGE = {
    "phase": "Pending",
    "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}],
}
CREATING = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}


def failed(code: int, second: int) -> dict[str, Any]:
    ended = {"exitCode": code, "finishedAt": f"2026-01-01T00:00:{second:02}Z", "reason": "Error"}
    return {"phase": "Failed", "containerStatuses": [{"state": {"terminated": ended}}]}


def condition(kind: str, reason: str) -> dict[str, Any]:
    return {
        "status": {"restarts": 4, "conditions": [{"type": kind, "status": "True", "reason": reason, "message": "m"}]}
    }


def parsed(jobset: dict[str, Any], *pods: dict[str, Any]) -> JobStatus:
    whole = {"kind": "JobSet", "metadata": {"name": "job-abcde"}, "spec": {"suspend": False}, "unknown": 1} | jobset
    items = [{"metadata": {"name": f"pod-{number}"}, "status": status} for number, status in enumerate(pods)]
    return job_status(
        read_answer(json.dumps(whole), JobSet, job="job-abcde"),
        read_answer(json.dumps({"items": items}), PodList, job="job-abcde").items,
    )


CANCELLED = {"metadata": {"name": "job-abcde", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
UNSCHEDULABLE_TEXT = "Unschedulable: 0/3 nodes are available"


@pytest.mark.parametrize(
    ("status", "state", "code", "detail"),
    [
        (parsed({}), "pending", None, "pods: none"),
        (parsed({"spec": {"suspend": True}}), "pending", None, "pods: none; suspended: waits for its queue"),
        (parsed({}, CREATING, CREATING), "pending", None, "pods: 2 Pending"),
        (parsed({}, UNSCHEDULABLE, UNSCHEDULABLE), "pending", None, f"pods: 2 Pending; pod-0: {UNSCHEDULABLE_TEXT}"),
        (parsed({}, NO_IMAGE), "pending", None, "pods: 1 Pending; pod-0: ImagePullBackOff: Back-off pulling image"),
        (
            parsed({}, RUNNING, UNSCHEDULABLE),
            "running",
            None,
            f"pods: 1 Pending, 1 Running; pod-1: {UNSCHEDULABLE_TEXT}",
        ),
        (parsed(condition("Completed", "AllJobsCompleted")), "finished", 0, "pods: none"),
        (parsed(condition("Failed", "ReachedMaxRestarts"), failed(3, 1)), "preempted", 3, "pods: 1 Failed; m"),
        (parsed(condition("Failed", "ReachedMaxRestarts")), "preempted", 3, "pods: none; m"),
        (parsed(condition("Failed", "FailJobSetFailurePolicyAction"), failed(3, 9), failed(7, 1)), "failed", 7, None),
        (parsed(condition("Failed", "FailJobSetFailurePolicyAction"), EVICTED), "failed", None, None),
        (parsed(CANCELLED, RUNNING), "cancelled", None, "pods: 1 Running"),
        (parsed({"status": {"conditions": [{"type": "Failed", "status": "False"}]}}, RUNNING), "running", None, None),
    ],
    ids=lambda value: value.detail if isinstance(value, JobStatus) else None,
)
def test_kubernetes_words_become_ours(status: JobStatus, state: str, code: int | None, detail: str | None) -> None:
    assert (status.job, status.state, status.exit_code) == ("job-abcde", state, code)
    assert detail in (None, status.detail)


def test_restarts_are_those_of_the_jobset() -> None:
    assert parsed(condition("Completed", "AllJobsCompleted")).restarts == 4


def test_an_answer_that_is_no_jobset_is_an_error() -> None:
    with pytest.raises(SchedulerError, match="kubectl get, of job job-abcde: spec: Field required"):
        read_answer('{"metadata": {"name": "a"}}', JobSet, job="job-abcde")
