"""The train loop: the order of things, and nothing else. It names no engine, stage or model."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.batch import Batch
from trainer.errors import TrainingError
from trainer.interfaces import Engine, Report, Sink
from trainer.metrics.clock import Clock
from trainer.metrics.record import Record
from trainer.snapshot import RunState


class Loader(Protocol):
    """The stream of this rank's micro-batches, positioned at the state's step."""

    def take(self, count: int) -> Sequence[Batch]: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """When what is due. A period of 0 means at the end alone."""

    steps: int
    micro_batches: int
    """Of one rank in one step."""
    log_every: int
    evaluate_every: int
    snapshot_every: int

    def report_is_due(self, step: int) -> bool:
        """With every log line, evaluation and snapshot."""
        return _is_due(step, self.log_every, self.steps) or self.evaluation_is_due(step) or self.snapshot_is_due(step)

    def evaluation_is_due(self, step: int) -> bool:
        return _is_due(step, self.evaluate_every, self.steps)

    def snapshot_is_due(self, step: int) -> bool:
        return _is_due(step, self.snapshot_every, self.steps)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop drives. The callables are the same on all ranks and are called by all ranks alike."""

    engine: Engine
    loader: Loader
    samples_of_step: Callable[[int], int]
    """Windows of this step over all ranks."""
    record: Record
    clock: Clock
    sinks: Sequence[Sink]
    evaluate: Callable[[], Mapping[str, float]]
    """Scores of held-out data by name."""
    save: Callable[[RunState], None]
    """Writes a snapshot."""
    stop_is_agreed: Callable[[int], bool]
    """Whether the ranks agree, at this step, that a notice to stop has come."""


def train(plan: Plan, parts: Parts, state: RunState) -> RunState:
    """Runs from `state` to the last step, or to the first step boundary at which a stop is agreed.

    Raises TrainingError when the loss is no longer finite.
    """
    saved_step = state.step
    while state.step < plan.steps and not parts.stop_is_agreed(state.step):
        state = _step(plan, parts, state)
        if plan.report_is_due(state.step):  # before scores and snapshots, so that a broken model leaves none
            _publish_training(parts, state)
        if plan.evaluation_is_due(state.step):
            _publish_scores(parts, state)
        if plan.snapshot_is_due(state.step):
            _save(parts, state)
            saved_step = state.step
    if state.step > saved_step:
        if not plan.report_is_due(state.step):
            _publish_training(parts, state)
        _save(parts, state)
    return state


def _step(plan: Plan, parts: Parts, state: RunState) -> RunState:
    with parts.clock("data"):
        batches = parts.loader.take(plan.micro_batches)
    before = parts.clock.seconds("step")
    with parts.clock("step"):
        result = parts.engine.step(batches)
    parts.record.add(result, batches, seconds=parts.clock.seconds("step") - before)
    return state.advance(samples=parts.samples_of_step(state.step))


def _publish_training(parts: Parts, state: RunState) -> None:
    report = parts.record.report(
        step=state.step,
        samples=state.samples_seen,
        learning_rate=parts.engine.learning_rate,
        phases=parts.clock.phases,
    )
    _publish(parts, report)
    _stop_unless_finite("loss", report.scalars["loss"], step=state.step)


def _publish_scores(parts: Parts, state: RunState) -> None:
    with parts.clock("evaluation"):
        scores = parts.evaluate()
    totals = {f"seconds/{phase}": value for phase, value in parts.clock.phases.items()}
    _publish(parts, Report(state.step, state.samples_seen, time.time(), scalars=scores, totals=totals))
    for name, value in scores.items():
        if name.endswith("/vrmse"):
            _stop_unless_finite(name, value, step=state.step)


def _stop_unless_finite(name: str, value: float, *, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"{name} is {value} at step {step}, so no snapshot was written from here on. Give the run another `output` "
            "with a lower optimizer.learning_rate or optimizer.gradient_clip, or look at the data with "
            "`python -m data_prep show`"
        )


def _save(parts: Parts, state: RunState) -> None:
    with parts.clock("snapshot"):
        parts.save(state)
    scalars = {"snapshot_time": time.time()}
    totals = {f"seconds/{phase}": value for phase, value in parts.clock.phases.items()}
    _publish(parts, Report(state.step, state.samples_seen, time.time(), scalars=scalars, totals=totals))


def _publish(parts: Parts, report: Report) -> None:
    for sink in parts.sinks:
        sink.publish(report)


def _is_due(step: int, period: int, last: int) -> bool:
    return step == last or (period > 0 and step % period == 0)
