"""What the controllers of Job and JobSet do, as far as our manifests use them: indexes, failures, restarts, deletion.

One JobSet is of one replicated Job. Written from the documents of both (Kubernetes: Jobs, Pod failure policy; JobSet:
Failure policy), so it shows what we believe of them, not what a controller does.
"""

import copy
import random
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.integration.kubernetes_pods import INDEX_KEY, Pod, now

JOBSET_KEY = "jobset.sigs.k8s.io/jobset-name"
MakePod = Callable[[dict[str, Any]], Pod]


class JobSetRun:
    """A JobSet and its pods; `advance` moves both on, until `is_gone`."""

    def __init__(self, posted: Mapping[str, Any], *, namespace: str, make_pod: MakePod) -> None:
        self.manifest: dict[str, Any] = copy.deepcopy(dict(posted))
        metadata = self.manifest["metadata"]
        metadata |= {"namespace": namespace, "creationTimestamp": now(), "uid": random_word(12)}
        metadata.setdefault("name", metadata.get("generateName", "") + random_word(5))
        self.manifest["status"] = {"restarts": 0, "conditions": []}
        self.pods: list[Pod] = []
        self.is_gone = False
        self._make_pod = make_pod
        self._succeeded: set[int] = set()
        self._failure: str | None = None

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    def delete(self) -> None:
        """In the foreground: the JobSet goes after its pods."""
        self.manifest["metadata"].setdefault("deletionTimestamp", now())
        for pod in self.pods:
            pod.delete()

    def advance(self) -> None:
        for pod in self.pods:
            pod.observe()
        deleted, ended = "deletionTimestamp" in self.manifest["metadata"], bool(self.manifest["status"]["conditions"])
        if not deleted and not ended and not self.manifest["spec"].get("suspend", False):
            self._run_job()
        self.pods = [pod for pod in self.pods if not (pod.is_deleted and pod.has_ended)]
        self.is_gone = deleted and not self.pods

    @property
    def _job(self) -> Any:
        return self.manifest["spec"]["replicatedJobs"][0]["template"]["spec"]

    def _run_job(self) -> None:
        self._succeeded |= {pod.index for pod in self.pods if pod.phase == "Succeeded"}
        self._failure = self._failure or job_failure(self._job, self.pods)
        if self._failure is not None:
            self._fail_job(self._failure)
        elif len(self._succeeded) == self._job["completions"]:
            self._end("Completed", "AllJobsCompleted", "jobset completed successfully")
        else:
            busy = {pod.index for pod in self.pods if not pod.has_ended}
            for index in sorted(set(range(self._job["completions"])) - busy - self._succeeded):
                self.pods.append(self._new_pod(index))

    def _fail_job(self, reason: str) -> None:
        """The pods that still run end first; then the JobSet decides."""
        running = [pod for pod in self.pods if not pod.has_ended]
        for pod in running:
            pod.delete()
        if not running:
            self._apply_failure_policy(reason)

    def _apply_failure_policy(self, reason: str) -> None:
        policy, status = self.manifest["spec"]["failurePolicy"], self.manifest["status"]
        rules = [rule for rule in policy["rules"] if reason in rule.get("onJobFailureReasons", [reason])]
        action = rules[0]["action"] if rules else "RestartJobSet"
        if action == "FailJobSet":
            self._end("Failed", "FailJobSetFailurePolicyAction", f"jobset failed: {reason}")
        elif status["restarts"] >= policy["maxRestarts"]:
            self._end("Failed", "ReachedMaxRestarts", "jobset failed due to reaching max number of restarts")
        else:
            status["restarts"] += 1
            self.pods, self._succeeded, self._failure = [], set(), None

    def _end(self, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self.manifest["status"]["conditions"].append(condition)

    def _new_pod(self, index: int) -> Pod:
        template = copy.deepcopy(self._job["template"])
        place = {INDEX_KEY: str(index)}
        metadata = template.get("metadata", {})
        return self._make_pod(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{self.name}-node-0-{index}-{random_word(5)}",
                    "namespace": self.manifest["metadata"]["namespace"],
                    "labels": {**metadata.get("labels", {}), **place, JOBSET_KEY: self.name},
                    "annotations": {**metadata.get("annotations", {}), **place},
                },
                "spec": template["spec"],
            }
        )


def job_failure(job: Mapping[str, Any], pods: Sequence[Pod]) -> str | None:
    """Why the Job fails: the pod failure policy goes before the limit of failures."""
    failed = [pod for pod in pods if pod.phase == "Failed"]
    actions = [pod_action(job["podFailurePolicy"]["rules"], pod) for pod in failed]
    if "FailJob" in actions:
        return "PodFailurePolicy"
    return "BackoffLimitExceeded" if actions.count("Count") > job["backoffLimit"] else None


def pod_action(rules: Sequence[Mapping[str, Any]], pod: Pod) -> str:
    for rule in rules:
        codes = rule.get("onExitCodes")
        if codes is not None and pod.exit_code in codes["values"]:
            return str(rule["action"])
        if "onPodConditions" in rule and pod.is_disrupted:
            return str(rule["action"])
    return "Count"


def random_word(length: int) -> str:
    return "".join(random.choices(string.ascii_lowercase, k=length))
