"""The loop: what happens, in which order, and where it goes on."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.errors import TrainingError
from trainer.interfaces import Report, StepResult
from trainer.loop import Agreement, Parts, Plan, train
from trainer.metrics.clock import Clock
from trainer.metrics.record import Record
from trainer.snapshot import RunState

PLAN = Plan(steps=6, micro_batches=2, log_every=2, evaluate_every=3, snapshot_every=4, max_skipped=2)


@dataclass
class FakeRun:
    """An engine, loader and sink in one, which writes down what is asked of it."""

    events: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    loss: float = 1.0
    breaks_at: int = 10**9
    """Step from which on the loss is not finite."""
    score: float = 0.5
    skipped: Collection[int] = ()
    """Steps whose gradients are not finite."""
    said: list[str] = field(default_factory=list)
    stop_at: int | None = None
    written_at: int = 0
    """Step from which on the threads have written their shares."""
    saving: RunState | None = None
    boundaries: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    saved_scores: dict[int, dict[str, float]] = field(default_factory=dict)
    learning_rate: float = 0.1

    def take(self, count: int) -> Sequence[Batch]:
        self.events.append(f"take {count}")
        return [make_batch()] * count

    def step(self, batches: Sequence[Batch]) -> StepResult:
        count = torch.tensor(float(len(batches)))
        self.events.append("step")
        loss = float("nan") if self.events.count("step") >= self.breaks_at else self.loss
        return StepResult(
            sums={"loss": loss * count},
            counts={"loss": count},
            gradient_norm=torch.tensor(2.0),
            was_applied=self.events.count("step") not in self.skipped,
        )

    def evaluate(self) -> Mapping[str, float]:
        self.events.append("evaluate")
        return {"valid/vrmse": self.score}

    def begin(self, state: RunState, scores: Mapping[str, float]) -> None:
        assert self.saving is None, "the one before is completed first"
        self.events.append(f"save {state.step}")
        self.saved_scores[state.step] = dict(scores)
        self.saving = state

    def commit(self) -> RunState | None:
        saved, self.saving = self.saving, None
        if saved is not None:
            self.events.append(f"whole {saved.step}")
        return saved

    def publish(self, report: Report) -> None:
        self.reports.append(report)

    def close(self) -> None:
        pass

    def begins(self, phase: str, step: int) -> None:
        self.places.append(f"{phase} {step}")

    def agree(self, step: int) -> Agreement:
        return Agreement(must_stop=step == self.stop_at, is_written=step >= self.written_at)

    def run(self, state: RunState, plan: Plan = PLAN) -> RunState:
        parts = Parts(
            engine=self,  # a fake has what the loop uses alone
            loader=self,
            samples_of_step=lambda step: 8,
            record=Record(sum_over_ranks=lambda tensor: tensor, tokens_of=lambda batch: 10, device=torch.device("cpu")),
            clock=Clock(),
            sinks=(self,),
            evaluate=self.evaluate,
            saver=self,
            watch=self,
            name_windows=lambda step: f"the windows of step {step}",
            say=self.said.append,
            at_boundary=self.boundaries.append,
            agree=self.agree,
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
    assert run.events[-2:] == ["save 3", "whole 3"]


def test_training_goes_on_while_a_snapshot_is_written() -> None:
    run = FakeRun(written_at=5)
    run.run(start())
    between = run.events[run.events.index("save 4") : run.events.index("whole 4")]
    assert between.count("step") == 1


def test_a_snapshot_is_completed_before_the_next_and_before_the_end() -> None:
    run = FakeRun(written_at=100)
    run.run(start(), replace(PLAN, snapshot_every=2))
    saves = [event for event in run.events if event.startswith(("save", "whole"))]
    assert saves == ["save 2", "whole 2", "save 4", "whole 4", "save 6", "whole 6"]


def test_a_snapshot_has_the_scores_of_its_own_step_alone() -> None:
    run = FakeRun()
    run.run(start())
    assert run.saved_scores == {4: {}, 6: {"valid/vrmse": 0.5}}


def test_a_loss_that_is_not_finite_leaves_the_snapshot_in_the_making_whole() -> None:
    run = FakeRun(written_at=100, breaks_at=5)
    with pytest.raises(TrainingError, match="loss is nan at step 6"):
        run.run(start())
    assert run.events[-1] == "whole 4"


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


def test_a_step_that_was_left_out_is_named_and_not_counted() -> None:
    run = FakeRun(skipped=[3], loss=1.0)
    run.run(start())
    assert run.said == ["step 3 was left out: gradients are not finite, though this rank's loss is 2"]
    last = [report for report in run.reports if "loss" in report.scalars][-1]
    assert (last.totals["steps"], last.totals["skipped_steps"]) == (6, 1)


def test_windows_whose_loss_is_not_finite_are_named() -> None:
    run = FakeRun(breaks_at=6, skipped=[6])
    run.run(start())
    assert run.said == ["step 6 was left out: the loss of these windows is not finite: the windows of step 5"]


def test_a_report_of_steps_left_out_alone_has_no_loss() -> None:
    run = FakeRun(breaks_at=5, skipped=[5, 6])
    run.run(start())
    assert [report.scalars.keys() for report in run.reports if report.step == 6 and "loss" in report.scalars] == []


def test_too_many_steps_left_out_end_the_run_with_the_state_before_them() -> None:
    run = FakeRun(skipped=range(3, 10))
    with pytest.raises(TrainingError, match=r"in the 3 steps from 3 on.* snapshot of step 2 has the state before"):
        run.run(start(), replace(PLAN, snapshot_every=0))
    assert run.events[-2:] == ["save 2", "whole 2"]


@pytest.mark.parametrize("period", [0, 1, 2, 3])
def test_whoever_starts_again_meets_the_steps_left_out_again(period: int) -> None:
    """Whatever is due among them: the newest snapshot is of the state before them, and it is written once."""
    run = FakeRun(skipped=range(3, 10))
    with pytest.raises(TrainingError, match="snapshot of step 2"):
        run.run(start(), replace(PLAN, snapshot_every=period))
    assert [event for event in run.events if event.startswith("save")][-1] == "save 2"
    assert run.events.count("save 2") == 1


def test_a_snapshot_due_at_a_step_left_out_is_of_the_state_before_it() -> None:
    run = FakeRun(skipped=[4])
    run.run(start())
    assert [event for event in run.events if event.startswith("save")] == ["save 3", "save 6"]


def test_a_run_whose_last_step_is_left_out_is_complete() -> None:
    run = FakeRun(skipped=[5, 6])
    assert run.run(start()).step == 6
    assert [event for event in run.events if event.startswith("save")] == ["save 4", "save 6"]


def test_a_stop_amid_steps_left_out_saves_the_state_before_them() -> None:
    run = FakeRun(skipped=[2, 3], stop_at=3)
    assert run.run(start()) == start(1)
    assert run.events[-2:] == ["save 1", "whole 1"]


@pytest.mark.parametrize("period", [0, 1])
def test_a_run_that_never_trained_a_step_says_so_and_saves_nothing(period: int) -> None:
    run = FakeRun(skipped=range(1, 10))
    with pytest.raises(TrainingError, match="no step before them trained anything, so there is no snapshot") as caught:
        run.run(start(), replace(PLAN, snapshot_every=period))
    assert "--accept" not in str(caught.value)
    assert not any(event.startswith("save") for event in run.events)


def test_a_state_that_has_its_snapshot_is_not_written_again() -> None:
    run = FakeRun(skipped=range(1, 10))
    with pytest.raises(TrainingError, match="snapshot of step 4"):
        run.run(start(4), replace(PLAN, steps=9))
    assert run.events.count("step") == 3
    assert not any(event.startswith("save") for event in run.events)


def test_steps_left_out_apart_from_each_other_end_nothing() -> None:
    run = FakeRun(skipped=[1, 2, 4, 5])
    assert run.run(start()).step == 6


def test_the_watch_is_told_what_begins() -> None:
    run = FakeRun()
    run.run(start(5))
    assert run.places[:3] == ["snapshot 5", "data 5", "step 5"]
    assert "evaluation 6" in run.places


def test_every_boundary_is_told_the_last_one_too() -> None:
    run = FakeRun()
    run.run(start(3))
    assert run.boundaries == [3, 4, 5, 6]
