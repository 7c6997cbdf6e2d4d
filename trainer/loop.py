"""The train loop: the order of things, and nothing else. It names no engine, stage or model."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.batch import Batch
from trainer.errors import TrainingError
from trainer.interfaces import SNAPSHOT_STEP, SNAPSHOT_TIME, Engine, Report, Sink
from trainer.metrics.clock import Clock
from trainer.metrics.record import Record
from trainer.snapshot import RunState


class Loader(Protocol):
    """The stream of this rank's micro-batches, positioned at the state's step."""

    def take(self, count: int) -> Sequence[Batch]: ...


class Saver(Protocol):
    """Snapshots of the run, written while it goes on. All ranks call all of it alike."""

    def begin(self, state: RunState, scores: Mapping[str, float]) -> None:
        """Copies the state, to be written from now on. `scores`: of the evaluation at this step, if any."""

    def commit(self) -> RunState | None:
        """Completes the snapshot in the making, if there is one, and gives its state."""


class Watch(Protocol):
    """Ends the process when it makes no progress."""

    def begins(self, phase: str, step: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all ranks know at a step boundary."""

    must_stop: bool
    """A notice has come to one of them."""
    is_written: bool
    """All have written their shares of the snapshot in the making."""


@dataclass(frozen=True, slots=True)
class Plan:
    """When what is due. A period of 0 means at the end alone."""

    steps: int
    micro_batches: int
    """Of one rank in one step."""
    log_every: int
    evaluate_every: int
    snapshot_every: int
    max_skipped: int
    """Steps in a row that may be left out because their loss or gradients are not finite."""

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
    saver: Saver
    watch: Watch
    name_windows: Callable[[int], str]
    """What people call the windows that this rank reads for the step after so many others."""
    say: Callable[[str], None]
    """Tells people something out of the ordinary; called by any rank."""
    at_boundary: Callable[[int], None]
    """Called between steps, with how many are done."""
    agree: Callable[[int], Agreement]
    """What the ranks agree on at this step."""


def train(plan: Plan, parts: Parts, state: RunState) -> RunState:
    """Runs from `state` to the last step, or to the first step boundary at which a stop is agreed; gives what it saved.

    Amid steps that are left out the state before them is saved, whose weights are the same: whoever goes on from it
    meets them again, so that no number of restarts gets past more of them than may be. Raises TrainingError when there
    are more, or when scores are not finite.
    """
    saved_step, sound = state.step, state
    while state.step < plan.steps:
        parts.at_boundary(state.step)
        agreement = parts.agree(state.step)
        if agreement.is_written:
            _complete_snapshot(parts, state)
        if agreement.must_stop:
            state = sound
            break
        state, was_applied = _step(plan, parts, state)
        sound = state if was_applied else sound
        to_save = state if state.step == plan.steps else sound
        scores: Mapping[str, float] = {}
        if state.step - sound.step > plan.max_skipped:
            _give_up(plan, parts, sound, is_saved=sound.step == saved_step)
        if plan.report_is_due(state.step):  # before scores and snapshots, so that a broken model leaves none
            _publish_training(parts, state)
        if plan.evaluation_is_due(state.step):
            scores = _publish_scores(parts, state)
        if plan.snapshot_is_due(state.step) and to_save.step > saved_step:
            _begin_snapshot(parts, to_save, scores)
            saved_step = to_save.step
    parts.at_boundary(state.step)
    if state.step > saved_step:
        if not plan.report_is_due(state.step):
            _publish_training(parts, state)
        _begin_snapshot(parts, state, {})
    _complete_snapshot(parts, state)
    return state


def _step(plan: Plan, parts: Parts, state: RunState) -> tuple[RunState, bool]:
    """The state after one step, and whether it changed any weight."""
    parts.watch.begins("data", state.step)
    with parts.clock("data"):
        batches = parts.loader.take(plan.micro_batches)
    before = parts.clock.seconds("step")
    parts.watch.begins("step", state.step)
    with parts.clock("step"):
        result = parts.engine.step(batches)
    parts.record.add(result, batches, seconds=parts.clock.seconds("step") - before)
    if not result.was_applied:
        _name_what_was_skipped(parts, state, loss=float(result.sums["loss"]))
    return state.advance(samples=parts.samples_of_step(state.step)), result.was_applied


def _name_what_was_skipped(parts: Parts, state: RunState, *, loss: float) -> None:
    """Gradients are not finite on all ranks once they are on one; the windows are those of that one."""
    if not math.isfinite(loss):
        windows = parts.name_windows(state.step)
        parts.say(f"step {state.step + 1} was left out: the loss of these windows is not finite: {windows}")
    else:
        parts.say(
            f"step {state.step + 1} was left out: gradients are not finite, though this rank's loss is {loss:.4g}"
        )


def _give_up(plan: Plan, parts: Parts, sound: RunState, *, is_saved: bool) -> None:
    """No step since `sound` has changed a weight, so that its snapshot can still be written."""
    if not is_saved:
        _begin_snapshot(parts, sound, {})
    _complete_snapshot(parts, sound)
    saved = (
        f"the snapshot of step {sound.step} has the state before them, from which a restart goes on. Start again with "
        "a lower optimizer.learning_rate and --accept=optimizer.learning_rate (or optimizer.gradient_clip, likewise)"
    )
    unsaved = (
        "no step before them trained anything, so there is no snapshot. Start again with another optimizer section"
    )
    raise TrainingError(
        f"loss or gradients were not finite in the {plan.max_skipped + 1} steps from {sound.step + 1} on, and "
        f"optimizer.max_skipped_steps is {plan.max_skipped}; {saved if sound.step else unsaved}, or look at the "
        "windows named above with `python -m data_prep show`"
    )


def _publish_training(parts: Parts, state: RunState) -> None:
    report = parts.record.report(
        step=state.step,
        samples=state.samples_seen,
        learning_rate=parts.engine.learning_rate,
        phases=parts.clock.phases,
    )
    _publish(parts, report)
    if "loss" in report.scalars:
        _stop_unless_finite(parts, state, "loss", report.scalars["loss"])


def _publish_scores(parts: Parts, state: RunState) -> Mapping[str, float]:
    parts.watch.begins("evaluation", state.step)
    with parts.clock("evaluation"):
        scores = parts.evaluate()
    _publish(parts, _report(parts, state, scores))
    for name, value in scores.items():
        if name.endswith("/vrmse"):
            _stop_unless_finite(parts, state, name, value)
    return scores


def _stop_unless_finite(parts: Parts, state: RunState, name: str, value: float) -> None:
    if not math.isfinite(value):
        _complete_snapshot(parts, state)
        raise TrainingError(
            f"{name} is {value} at step {state.step}, so no snapshot was written from here on. Give the run another "
            "`output` with a lower optimizer.learning_rate or optimizer.gradient_clip, or look at the data with "
            "`python -m data_prep show`"
        )


def _begin_snapshot(parts: Parts, state: RunState, scores: Mapping[str, float]) -> None:
    """The one before is completed first, where it is not yet."""
    _complete_snapshot(parts, state)
    parts.watch.begins("snapshot", state.step)
    with parts.clock("snapshot"):
        parts.saver.begin(state, scores)


def _complete_snapshot(parts: Parts, state: RunState) -> None:
    parts.watch.begins("snapshot", state.step)
    with parts.clock("snapshot"):
        saved = parts.saver.commit()
    if saved is not None:
        _publish(parts, _report(parts, state, {SNAPSHOT_TIME: time.time(), SNAPSHOT_STEP: float(saved.step)}))


def _report(parts: Parts, state: RunState, scalars: Mapping[str, float]) -> Report:
    totals = {f"seconds/{phase}": value for phase, value in parts.clock.phases.items()}
    return Report(state.step, state.samples_seen, time.time(), scalars=scalars, totals=totals)


def _publish(parts: Parts, report: Report) -> None:
    for sink in parts.sinks:
        sink.publish(report)


def _is_due(step: int, period: int, last: int) -> bool:
    return step == last or (period > 0 and step % period == 0)
