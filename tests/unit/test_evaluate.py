"""Evaluation: the same numbers however the windows are batched and spread over ranks."""

import pytest
import torch
from torch import Tensor, nn

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.evaluate import Rollout, evaluate_frames, evaluate_rollouts
from trainer.scores import vrmse


class Halve(nn.Module):
    """Predicts half of everything; a rollout repeats the last frame of its context."""

    def forward(self, batch: Batch, predict: bool = False, rollout: tuple[int, int] | None = None) -> Tensor:
        assert predict != (rollout is not None)
        if rollout is None:
            return batch.fields / 2
        context, horizon = rollout
        return batch.fields[:, context - 1 : context].repeat_interleave(horizon, dim=1)


def alone(tensor: Tensor) -> Tensor:
    return tensor


def test_scores_are_in_the_units_of_the_source() -> None:
    batch = make_batch()
    scores = evaluate_frames(Halve(), [(batch, 2)], first_frame=0, sum_over_ranks=alone)
    expected = vrmse(batch.fields + 1, 2 * batch.fields + 1).mean().item()
    assert scores["vrmse"] == pytest.approx(expected, rel=1e-5)


def test_repeated_windows_do_not_count() -> None:
    full, padded = make_batch(num_windows=3), make_batch(num_windows=3)
    two = evaluate_frames(Halve(), [(full, 2)], first_frame=0, sum_over_ranks=alone)
    padded.fields[2] = 1e6
    assert evaluate_frames(Halve(), [(padded, 2)], first_frame=0, sum_over_ranks=alone) == two


def test_scores_do_not_depend_on_the_batches() -> None:
    large = make_batch(num_windows=4)
    small = [make_batch(num_windows=2), make_batch(num_windows=2)]
    small[0].fields[:], small[1].fields[:] = large.fields[:2], large.fields[2:]
    whole = evaluate_frames(Halve(), [(large, 4)], first_frame=1, sum_over_ranks=alone)
    parts = evaluate_frames(Halve(), [(part, 2) for part in small], first_frame=1, sum_over_ranks=alone)
    assert parts == pytest.approx(whole, rel=1e-6)


def test_two_ranks_of_the_same_windows_score_as_one() -> None:
    batch = make_batch()
    one = evaluate_frames(Halve(), [(batch, 2)], first_frame=0, sum_over_ranks=alone)
    two = evaluate_frames(Halve(), [(batch, 2)], first_frame=0, sum_over_ranks=lambda tensor: 2 * tensor)
    assert two == pytest.approx(one)


def test_channels_that_are_not_targets_are_not_scored() -> None:
    batch = make_batch(is_target=(True, False))
    scores = evaluate_frames(Halve(), [(batch, 2)], first_frame=0, sum_over_ranks=alone)
    assert "vrmse@density" in scores
    assert "vrmse@momentum_x" not in scores
    assert scores["vrmse"] == pytest.approx(scores["vrmse@density"])


def test_persistence_predicts_the_frame_before() -> None:
    batch = make_batch()
    scores = evaluate_frames(Halve(), [(batch, 2)], first_frame=1, sum_over_ranks=alone)
    physical = 2 * batch.fields + 1
    assert scores["vrmse_persistence"] == pytest.approx(vrmse(physical[:, :-1], physical[:, 1:]).mean().item())


def test_a_rollout_is_scored_for_each_lead() -> None:
    batch = make_batch(frames=5)
    scores = evaluate_rollouts(Halve(), [(batch, 2)], rollout=Rollout(context=2, horizon=3), sum_over_ranks=alone)
    physical = 2 * batch.fields + 1
    for lead in (1, 2, 3):
        expected = vrmse(physical[:, 1:2], physical[:, 1 + lead : 2 + lead]).mean().item()
        assert scores[f"rollout_vrmse@{lead}"] == pytest.approx(expected, rel=1e-5)
    assert scores["rollout_vrmse"] == pytest.approx(scores["rollout_vrmse_persistence"])


def test_the_module_goes_back_to_training() -> None:
    module = Halve().train()
    evaluate_frames(module, [(make_batch(), 2)], first_frame=0, sum_over_ranks=alone)
    assert module.training
    assert torch.is_grad_enabled()
