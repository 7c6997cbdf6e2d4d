"""The memory of a rank by arithmetic, and the activations by counting, against what is really held."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.engine.recompute import recompute
from trainer.interfaces import StepOutput
from trainer.memory import Elements, activation_bytes, count_elements, state_bytes
from trainer.optimizers.build import build_optimizer

MEASURED_MEGABYTES = {
    (0, "fp32"): 36,
    (1, "fp32"): 32,
    (2, "fp32"): 28,
    (3, "fp32"): 22,
    (1, "bf16"): 30,
    (2, "bf16"): 22,
    (3, "bf16"): 19,
}
"""Live tensors of one of two ranks, DeepSpeed 0.19.8: two million trained numbers and one million frozen ones in
matrices of a million; the largest amount at the end of a backward pass with two micro-batches to a step.
tests/distributed/test_memory_of_ranks.py measures it again."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(torch.sigmoid(x * self.weight))


class Model(nn.Module):
    """Two blocks after a projection: what autograd keeps can be told by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.first, self.second = Block(), Block()

    def forward(self, batch: Batch) -> StepOutput:
        return StepOutput(loss=self.second(self.first(batch.fields * self.scale)).sum())


@pytest.mark.parametrize(("stage", "precision"), MEASURED_MEGABYTES)
def test_arithmetic_equals_what_ranks_held(stage: int, precision: str) -> None:
    elements = Elements(trained=2_000_000, frozen=1_000_000)
    expected = MEASURED_MEGABYTES[stage, precision] * 1_000_000
    assert state_bytes(elements, zero_stage=stage, precision=precision, num_ranks=2).total == expected


def test_small_parameters_stay_whole_in_stage_3() -> None:
    elements = Elements(trained=1000, frozen=0, persistent=1000)
    assert state_bytes(elements, zero_stage=3, precision="fp32", num_ranks=4).weights == 4 * 1000 // 4 + 4 * 1000


def test_elements_are_counted_by_what_happens_to_them() -> None:
    module = nn.ModuleList([nn.Linear(400, 300), nn.Linear(10, 10, bias=False)])
    module[1].requires_grad_(False)
    assert count_elements(module.parameters()) == Elements(trained=120_300, frozen=100, persistent=400)


@pytest.mark.parametrize("kind", ["adamw", "soap"])
def test_optimiser_states_equal_those_of_the_optimiser(kind: str) -> None:
    module = nn.Sequential(nn.Linear(7, 5), nn.Conv2d(3, 4, 2))
    optimizer = build_optimizer(
        OptimizerConfig(kind=kind),
        module,
        engine=EngineConfig(kind="plain", micro_batch_size=1),
    )
    for _ in range(2):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    values = [value for state in optimizer.state.values() for entry in state.values() for value in _tensors(entry)]
    held = sum(value.nbytes for value in values if value.numel() > 1)
    elements = count_elements(module.parameters(), with_preconditioners=kind == "soap")
    assert state_bytes(elements, zero_stage=None, precision="fp32", num_ranks=1).optimizer == held


def _tensors(entry: object) -> list[Tensor]:
    entries = entry if isinstance(entry, list) else [entry]
    return [value for value in entries if isinstance(value, Tensor)]


def test_activations_are_counted_once_each() -> None:
    batch = make_batch()
    size = batch.fields.nbytes
    model = Model()
    counted = activation_bytes(model, batch, blocks=(model.first, model.second))
    # the fields, and for each block its input and the results of two sigmoids (a block's input is the former's result)
    assert counted.kept == size * (1 + 3 + 2)
    # the fields and each block's input; then the two sigmoids of one block at a time
    assert counted.recomputed == size * (1 + 2) + size * 2


def test_of_blocks_that_are_kept_nothing_is_recomputed() -> None:
    batch, model = make_batch(), Model()
    size = batch.fields.nbytes
    # the fields and the first block's input, then all three of the second, gone when the first is computed again
    assert activation_bytes(model, batch, blocks=(model.first,)).recomputed == size * (2 + 3)
    # the fields, the first block's input and results, of which the last is the second block's input; then its two
    assert activation_bytes(model, batch, blocks=(model.second,)).recomputed == size * (4 + 2)


def test_recomputing_keeps_what_was_foretold() -> None:
    batch, model = make_batch(), Model()
    foretold = activation_bytes(model, batch, blocks=(model.first, model.second)).recomputed
    recompute((model.first, model.second))
    assert activation_bytes(model, batch, blocks=()).kept == foretold - 2 * batch.fields.nbytes


def test_activations_on_the_meta_device_equal_the_real_ones() -> None:
    batch = make_batch()
    here = Model()
    real = activation_bytes(here, batch, blocks=(here.first,))
    with torch.device("meta"):
        model = Model()
    meta = replace(batch.to(torch.device("meta")))
    assert activation_bytes(model, meta, blocks=(model.first,)) == real
