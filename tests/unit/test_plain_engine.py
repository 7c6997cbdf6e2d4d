"""The engine of one process, recomputation, and states that do not fit. What it computes: tests/distributed."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.distributed.toy import Block, Toy, make_toy, micro_batches
from tests.unit.saved_runs import ALONE
from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.engine.plain import PlainEngine, plain_engine
from trainer.engine.recompute import recompute
from trainer.errors import ConfigError, SnapshotError
from trainer.models.outermost import outermost
from trainer.optimizers.build import build_optimizer
from trainer.world import World


def make_engine(
    toy: Toy,
    *,
    optimizer: str = "adamw",
    precision: str = "fp32",
    average_decay: float | None = None,
    world: World = ALONE,
) -> PlainEngine:
    config = EngineConfig(kind="plain", precision=precision, micro_batch_size=8)
    settings = OptimizerConfig(kind=optimizer, average_decay=average_decay)
    return plain_engine(
        toy,
        build_optimizer(settings, toy, engine=config),
        engine=config,
        settings=settings,
        learning_rate=lambda step: 1e-3,
        world=world,
        accumulation=1,
    )


def train(engine: PlainEngine, *, steps: int) -> None:
    for step in range(steps):
        engine.step(micro_batches(step, rank=0, world_size=1, accumulation=1))


def entries(engine: PlainEngine) -> dict[str, dict[str, Tensor]]:
    return dict(engine.entries())


def test_more_than_one_rank_is_refused() -> None:
    two = World(rank=0, size=2, local_rank=0, local_size=2, device=torch.device("cpu"), backend="gloo")
    with pytest.raises(ConfigError, match=r"engine\.kind"):
        make_engine(make_toy(), world=two)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_entries_are_float32(precision: str) -> None:
    engine = make_engine(make_toy(), precision=precision)
    train(engine, steps=1)
    assert {tensor.dtype for tensors in engine.entries() for tensor in tensors[1].values()} == {torch.float32}


def test_before_the_first_step_there_are_no_states() -> None:
    assert {frozenset(tensors) for _, tensors in make_engine(make_toy()).entries()} == {frozenset({"weight"})}


def test_bfloat16_begins_with_the_given_float32_weights() -> None:
    given = make_toy().state_dict()
    engine = make_engine(make_toy(), precision="bf16")
    assert all(torch.equal(tensors["weight"], given[name]) for name, tensors in engine.entries())


def test_predictions_of_bfloat16_are_float32() -> None:
    engine = make_engine(make_toy(), precision="bf16")
    (batch,) = micro_batches(0, rank=0, world_size=1, accumulation=1)
    assert engine.module(batch, predict=True).dtype == torch.float32


def test_states_of_another_optimiser_are_refused() -> None:
    saved = make_engine(make_toy())
    train(saved, steps=1)
    held = entries(saved)
    with pytest.raises(SnapshotError, match="exp_avg_sq"):
        make_engine(make_toy(), optimizer="soap").load_entries(held.__getitem__, step=1)


def test_weights_of_another_shape_are_refused() -> None:
    held: Mapping[str, Mapping[str, Tensor]] = entries(make_engine(make_toy()))
    wrong = {**held, "scale": {"weight": torch.zeros(17)}}
    with pytest.raises(SnapshotError, match=r"`scale` has shape \(17,\) in the snapshot but \(16,\)"):
        make_engine(make_toy()).load_entries(wrong.__getitem__, step=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_for_an_evaluation_the_weights_are_their_averages(precision: str) -> None:
    engine = make_engine(make_toy(), precision=precision, average_decay=0.5)
    train(engine, steps=3)
    before = {name: {key: value.clone() for key, value in tensors.items()} for name, tensors in engine.entries()}
    shown = {name: weight.clone() for name, weight in engine.module.named_parameters()}
    with engine.averages():
        for name, weight in engine.module.named_parameters():
            assert torch.equal(weight, before[name]["average"].to(weight.dtype))
        assert not torch.equal(engine.module.get_parameter("first.mix.weight"), shown["first.mix.weight"])
    assert all(torch.equal(weight, shown[name]) for name, weight in engine.module.named_parameters())
    after = entries(engine)
    assert all(torch.equal(after[name][key], value) for name in before for key, value in before[name].items())


@pytest.mark.parametrize("average_decay", [None, 0.5])
def test_without_an_average_weights_stay_for_an_evaluation(average_decay: float | None) -> None:
    """None is kept, or the first step is yet to come."""
    engine, given = make_engine(make_toy(), average_decay=average_decay), make_toy().state_dict()
    with engine.averages():
        assert all(torch.equal(value, given[name]) for name, value in engine.module.state_dict().items())


def test_recomputation_keeps_parameter_names() -> None:
    toy = make_toy()
    recompute(outermost(toy, (Block,)))
    assert list(toy.state_dict()) == list(make_toy().state_dict())


def test_recomputation_runs_each_block_again_in_the_backward_pass() -> None:
    toy, calls = make_toy(), []
    toy.first.mix.register_forward_hook(lambda *_: calls.append(1))
    recompute(outermost(toy, (Block,)))
    loss = toy(micro_batches(0, rank=0, world_size=1, accumulation=1)[0]).loss
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2


def test_only_outermost_blocks_are_wrapped() -> None:
    toy = make_toy()
    assert outermost(toy, (Block, nn.Linear)) == [toy.embed, toy.first, toy.second]  # no linear layer of a block
