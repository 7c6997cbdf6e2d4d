"""What a Kubernetes cluster says of a JobSet and its pods, and what that means. Pure; reads kubectl's JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from launchers.job import JobStatus, SchedulerError, State
from launchers.jobset import RANKS_ANNOTATION
from trainer.errors import PREEMPTED

OUT_OF_RESTARTS = "ReachedMaxRestarts"
"""Reason of a JobSet whose failure asked for a restart more than it may have; ours are restarted when preempted."""
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
USUAL_WAITS = {"ContainerCreating", "PodInitializing", ""}
Read = TypeVar("Read", bound="_Part")


class _Part(BaseModel):
    """Of an answer, of which only what we ask for is read."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class Condition(_Part):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class Metadata(_Part):
    name: str
    deletion_timestamp: str | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


class JobSetSpec(_Part):
    suspend: bool = False


class JobSetStatus(_Part):
    conditions: tuple[Condition, ...] = ()
    restarts: int = 0


class JobSet(_Part):
    metadata: Metadata
    spec: JobSetSpec
    status: JobSetStatus = JobSetStatus()


class Waiting(_Part):
    reason: str = ""
    message: str = ""


class Terminated(_Part):
    exit_code: int
    finished_at: str | None = None
    """RFC 3339 in UTC, so that the order of times is that of texts."""


class ContainerState(_Part):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Part):
    state: ContainerState = ContainerState()


class PodStatus(_Part):
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Part):
    metadata: Metadata
    status: PodStatus = PodStatus()

    @property
    def node(self) -> int:
        """Its number among the nodes of the job."""
        return int(self.metadata.annotations.get(INDEX_ANNOTATION, 0))

    @property
    def ranks(self) -> int:
        return int(self.metadata.annotations.get(RANKS_ANNOTATION, 1))

    @property
    def terminated(self) -> list[Terminated]:
        return [status.state.terminated for status in self.status.container_statuses if status.state.terminated]

    @property
    def complaint(self) -> str:
        """Why it does not run, where it should."""
        for condition in self.status.conditions:
            if condition.type == "PodScheduled" and condition.status == "False":
                return _sentence(condition.reason, condition.message)
        for status in self.status.container_statuses:
            if status.state.waiting is not None and status.state.waiting.reason not in USUAL_WAITS:
                return _sentence(status.state.waiting.reason, status.state.waiting.message)
        return _sentence(self.status.reason, self.status.message)


class PodList(_Part):
    items: tuple[Pod, ...]


def read_answer(text: str, kind: type[Read], *, job: str) -> Read:
    """Raises SchedulerError for an answer that is none."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SchedulerError(f"kubectl get, of job {job}: {place or 'the answer'}: {first['msg']}") from None


def job_status(jobset: JobSet, pods: Sequence[Pod]) -> JobStatus:
    state, exit_code = _state(jobset, pods)
    return JobStatus(
        job=jobset.metadata.name,
        state=state,
        restarts=jobset.status.restarts,
        exit_code=exit_code,
        detail="; ".join([_count(pods), *_reasons(jobset, pods)]),
    )


def _state(jobset: JobSet, pods: Sequence[Pod]) -> tuple[State, int | None]:
    ends = {condition.type: condition for condition in jobset.status.conditions if condition.status == "True"}
    if jobset.metadata.deletion_timestamp is not None:
        return "cancelled", None
    if "Completed" in ends:
        return "finished", 0
    if "Failed" in ends:
        # pods that were evicted are gone with their exit codes; only a preemption asks for another restart
        return ("preempted", PREEMPTED) if ends["Failed"].reason == OUT_OF_RESTARTS else ("failed", _exit_code(pods))
    runs = any(pod.status.phase == "Running" for pod in pods)
    return "running" if runs else "pending", None


def _exit_code(pods: Sequence[Pod]) -> int | None:
    """Of the first pod that failed; those that follow are its consequences."""
    failed = [ended for pod in pods for ended in pod.terminated if ended.exit_code]
    return min(failed, key=lambda ended: ended.finished_at or "").exit_code if failed else None


def _count(pods: Sequence[Pod]) -> str:
    phases = Counter(pod.status.phase for pod in pods)
    return "pods: " + (", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or "none")


def _reasons(jobset: JobSet, pods: Sequence[Pod]) -> list[str]:
    """Each once, though a thousand pods may wait for it."""
    failed = [c.message for c in jobset.status.conditions if c.type == "Failed" and c.status == "True" and c.message]
    suspended = ["suspended: waits for its queue"] if jobset.spec.suspend else []
    complaints = {pod.complaint: pod for pod in reversed(pods) if pod.complaint}
    told = [f"{pod.metadata.name}: {complaint}" for complaint, pod in reversed(complaints.items())]
    return [*failed, *suspended, *told]


def _sentence(reason: str, message: str) -> str:
    return ": ".join(part for part in (reason, message) if part)
