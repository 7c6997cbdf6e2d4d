"""The loop: what happens, in which order, and where it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.errors import TrainingError
from trainer.interfaces import Report, StepResult
from trainer.loop import Parts, Plan, train
from trainer.metrics.clock import Clock
from trainer.metrics.record import Record
from trainer.snapshot import RunState

PLAN = Plan(steps=6, micro_batches=2, log_every=2, evaluate_every=3, snapshot_every=4)


@dataclass
class FakeRun:
    """An engine, loader and sink in one, which writes down what is asked of it."""

    events: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    loss: float = 1.0
    score: float = 0.5
    stop_at: int | None = None
    learning_rate: float = 0.1

    def take(self, count: int) -> Sequence[Batch]:
        self.events.append(f"take {count}")
        return [make_batch()] * count

    def step(self, batches: Sequence[Batch]) -> StepResult:
        count = torch.tensor(float(len(batches)))
        self.events.append("step")
        return StepResult(sums={"loss": self.loss * count}, counts={"loss": count}, gradient_norm=torch.tensor(2.0))

    def evaluate(self) -> Mapping[str, float]:
        self.events.append("evaluate")
        return {"valid/vrmse": self.score}

    def save(self, state: RunState) -> None:
        self.events.append(f"save {state.step}")

    def publish(self, report: Report) -> None:
        self.reports.append(report)

    def close(self) -> None:
        pass

    def stop_is_agreed(self, step: int) -> bool:
        return step == self.stop_at

    def run(self, state: RunState, plan: Plan = PLAN) -> RunState:
        parts = Parts(
            engine=self,  # type: ignore[arg-type]  # a fake has what the loop uses alone
            loader=self,
            samples_of_step=lambda step: 8,
            record=Record(sum_over_ranks=lambda tensor: tensor, tokens_of=lambda batch: 10),
            clock=Clock(),
            sinks=(self,),
            evaluate=self.evaluate,
            save=self.save,
            stop_is_agreed=self.stop_is_agreed,
        )
        return train(plan, parts, state)


def start(step: int = 0) -> RunState:
    return RunState(step=step, samples_seen=8 * step)


def test_each_step_takes_its_micro_batches_first() -> None:
    run = FakeRun()
    run.run(start())
    assert [event for event in run.events if event in ("take 2", "step")] == ["take 2", "step"] * 6


def test_evaluation_and_snapshot_come_when_due_and_at_the_end() -> None:
    run = FakeRun()
    run.run(start())
    assert [event for event in run.events if event.startswith(("evaluate", "save"))] == [
        "evaluate",
        "save 4",
        "evaluate",
        "save 6",
    ]


def test_a_resumed_run_makes_the_remaining_steps_alone() -> None:
    run = FakeRun()
    assert run.run(start(4)) == RunState(step=6, samples_seen=48)
    assert run.events.count("step") == 2


def test_a_complete_run_does_nothing() -> None:
    run = FakeRun()
    run.run(start(6))
    assert run.events == []


def test_an_agreed_stop_saves_at_the_step_boundary() -> None:
    run = FakeRun(stop_at=3)
    assert run.run(start()).step == 3
    assert run.events[-1] == "save 3"


def test_a_stop_right_after_a_snapshot_saves_no_second_one() -> None:
    run = FakeRun(stop_at=4)
    run.run(start())
    assert run.events.count("save 4") == 1


def test_totals_count_windows_tokens_and_bytes_of_all_steps() -> None:
    run = FakeRun()
    run.run(start())
    last = [report for report in run.reports if "loss" in report.scalars][-1]
    batch = make_batch()
    assert last.totals["steps"] == 6
    assert last.totals["windows"] == 6 * 2 * batch.num_windows
    assert last.totals["tokens"] == 6 * 2 * 10
    assert last.totals["bytes"] == 6 * 2 * batch.num_bytes


def test_a_metric_is_its_sum_over_its_count() -> None:
    run = FakeRun(loss=3.0)
    run.run(start())
    assert [report.scalars["loss"] for report in run.reports if "loss" in report.scalars] == [3.0] * 4


def test_a_loss_that_is_not_finite_stops_the_run_before_a_snapshot() -> None:
    run = FakeRun(loss=float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 2"):
        run.run(start())
    assert not any(event.startswith("save") for event in run.events)


def test_scores_that_are_not_finite_stop_the_run_before_a_snapshot() -> None:
    run = FakeRun(score=float("nan"))
    with pytest.raises(TrainingError, match="valid/vrmse is nan at step 3"):
        run.run(start())
    assert not any(event.startswith("save") for event in run.events)


def test_every_step_is_reported_before_the_snapshot_that_holds_it() -> None:
    run = FakeRun(stop_at=5)
    run.run(start())
    assert [report.step for report in run.reports if "loss" in report.scalars] == [2, 3, 4, 5]
