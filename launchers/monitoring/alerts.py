"""The alert rules: what must wake somebody, and nothing else."""

from dataclasses import dataclass
from typing import Any

from launchers.monitoring.queries import data_wait_share, newest, per_second, selector, still_expected


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on something is wrong. `patience_seconds`: how long it must stay wrong before anybody is told."""

    stalled_seconds: int = 900
    """Longer than a validation or a snapshot takes, and than the steps between two reports."""
    memory_seconds: int = 6 * 3600
    """How long the last sign of life of a run that went silent is remembered."""
    data_wait_share: float = 0.1
    data_window_seconds: int = 600
    skipped_window_seconds: int = 600
    """How long a step that was left out is remembered."""
    snapshot_age_seconds: int = 4 * 3600
    patience_seconds: int = 120


def alert_rules(limits: Limits | None = None) -> dict[str, Any]:
    """One group of rules in the format of Prometheus."""
    limits = limits or Limits()
    rules = [
        _stalled(limits),
        _unreachable(limits),
        _starving(limits),
        _not_finite(limits),
        _snapshot_old(limits),
    ]
    return {"groups": [{"name": "training", "rules": rules}]}


def _stalled(limits: Limits) -> dict[str, Any]:
    last = newest("trainer_last_step_timestamp_seconds", window=f"{limits.memory_seconds}s")
    return _rule(
        "TrainingStalled",
        f"time() - {last} > {limits.stalled_seconds} and {still_expected()}",
        patience_seconds=limits.patience_seconds,
        severity="page",
        summary="{{ $labels.run }} has made no step for {{ $value | humanizeDuration }}",
        description="A rank hangs, or the process died without withdrawing. Look at the logs of all ranks, then cancel "
        "and submit the job again: it goes on from its last snapshot.",
    )


def _unreachable(limits: Limits) -> dict[str, Any]:
    return _rule(
        "TrainerUnreachable",
        f"min by (run) ({selector('up')}) == 0",
        patience_seconds=limits.patience_seconds,
        severity="page",
        summary="a node of {{ $labels.run }} does not answer",
        description="The process was killed, or hangs, or the network is cut. If the run is gone for good, delete its "
        "file among the targets.",
    )


def _starving(limits: Limits) -> dict[str, Any]:
    return _rule(
        "DataStarvation",
        f"{data_wait_share(window=f'{limits.data_window_seconds}s')} > {limits.data_wait_share}",
        patience_seconds=limits.patience_seconds,
        severity="ticket",
        summary="{{ $labels.run }} spends {{ $value | humanizePercentage }} of its time waiting for data",
        description="Storage or decoding is slower than the accelerators. Raise data.threads or "
        "data.read_ahead_bytes, or bring the data nearer.",
    )


def _not_finite(limits: Limits) -> dict[str, Any]:
    """Such a step changes no weight and reports no loss: the counter alone tells of it."""
    skipped = per_second(selector("trainer_skipped_steps_total"), window=f"{limits.skipped_window_seconds}s")
    return _rule(
        "LossNotFinite",
        f"{skipped} > 0",
        patience_seconds=0,
        severity="page",
        summary="loss or gradients of {{ $labels.run }} are not finite",
        description="Steps were left out; more than optimizer.max_skipped_steps in a row end the run. Its log names "
        "their windows: look at the data, or go on from its last snapshot with a lower learning rate.",
    )


def _snapshot_old(limits: Limits) -> dict[str, Any]:
    last = newest("trainer_last_snapshot_timestamp_seconds", window=f"{limits.memory_seconds}s")
    return _rule(
        "SnapshotTooOld",
        f"time() - {last} > {limits.snapshot_age_seconds} and {still_expected()}",
        patience_seconds=limits.patience_seconds,
        severity="ticket",
        summary="the newest snapshot of {{ $labels.run }} is {{ $value | humanizeDuration }} old",
        description="So much work is lost if the run dies now. Lower snapshots.every_steps, or look why saving fails.",
    )


def _rule(
    name: str, expression: str, *, patience_seconds: int, severity: str, summary: str, description: str
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": f"{patience_seconds}s",
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description},
    }
