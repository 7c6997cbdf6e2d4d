"""One config gives one training, however it is spread, sharded, recomputed, stopped or resumed."""

from collections.abc import Mapping

import pytest
import torch

from tests.integration.tiny_corpus import STEPS
from tests.integration.trainings import Workshop, same_state


def close(values: Mapping[int, float]) -> object:
    return pytest.approx(values, rel=1e-5)


def test_zero_without_sharding_trains_as_plain(one_rank: Workshop) -> None:
    plain, unsharded = one_rank.state("plain"), one_rank.state("unsharded")
    assert plain.keys() == unsharded.keys()
    for name, value in plain.items():
        torch.testing.assert_close(unsharded[name], value, rtol=0, atol=1e-6, msg=name)


def test_two_ranks_train_as_one(one_rank: Workshop, pretrained: Workshop) -> None:
    assert pretrained.losses("tokeniser") == close(one_rank.losses("alone"))


def test_what_a_run_goes_on_from_is_not_trained_again(
    one_rank: Workshop, two_ranks: Workshop, pretrained: Workshop
) -> None:
    """The steps up to the snapshot keep the very lines that they were logged with, time of day and all."""
    for taken_over, source in (
        (one_rank.lines("shrunk"), pretrained.lines("tokeniser")),
        (two_ranks.lines("grown"), one_rank.lines("alone")),
    ):
        kept = [line for line in source if line["step"] <= 50]
        assert taken_over[: len(kept)] == kept
        assert not [line for line in taken_over[len(kept) :] if line in source]


def test_a_run_of_two_ranks_goes_on_with_one(one_rank: Workshop, pretrained: Workshop) -> None:
    assert one_rank.losses("shrunk") == close(pretrained.losses("tokeniser"))


def test_a_run_of_one_rank_goes_on_with_two(one_rank: Workshop, two_ranks: Workshop) -> None:
    assert two_ranks.losses("grown") == close(one_rank.losses("alone"))


def test_two_ranks_score_as_one(one_rank: Workshop, pretrained: Workshop) -> None:
    for two, one in zip(pretrained.scores("tokeniser"), one_rank.scores("alone"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_a_recomputed_tokeniser_is_the_same_to_the_bit(one_rank: Workshop) -> None:
    assert same_state(one_rank.state("recomputed"), one_rank.state("kept"))


def test_recomputed_dynamics_are_the_same_to_the_bit(one_rank: Workshop) -> None:
    assert same_state(one_rank.state("dynamics-recomputed"), one_rank.state("dynamics-kept"))


def test_sharded_weights_train_as_whole_ones(two_ranks: Workshop) -> None:
    assert two_ranks.losses("wide-sharded") == close(two_ranks.losses("wide"))


def test_sharded_weights_score_as_whole_ones(two_ranks: Workshop) -> None:
    [sharded], [whole] = two_ranks.scores("wide-sharded"), two_ranks.scores("wide")
    assert sharded == pytest.approx(whole, rel=1e-4)
    assert "valid/rollout_vrmse@4" in sharded


def test_sharded_weights_recompute(two_ranks: Workshop) -> None:
    assert two_ranks.losses("wide-recomputed") == close(two_ranks.losses("wide-sharded"))


@pytest.mark.parametrize(("run", "steps"), [("bf16", STEPS), ("dynamics-bf16", 30)])
def test_bf16_learns(two_ranks: Workshop, run: str, steps: int) -> None:
    losses = list(two_ranks.losses(run).values())
    assert len(losses) == steps
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_bf16_stays_near_fp32(two_ranks: Workshop, pretrained: Workshop) -> None:
    assert two_ranks.losses("bf16") == pytest.approx(pretrained.losses("tokeniser"), rel=0.02)
