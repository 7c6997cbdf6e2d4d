"""Adds up the live tensors of a rank under many engines and writes the largest sums.

`python -m tests.distributed.memory_cases CASES.json RESULT.json`, as one rank of the environment's world.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.collectives import process_group
from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.engine.deepspeed_door import import_deepspeed
from trainer.engine.zero import zero_engine
from trainer.interfaces import StepOutput
from trainer.optimizers.build import build_optimizer
from trainer.world import World, world_from_environment

SIDE = 500
"""Of a matrix; its elements are above stage 3's threshold."""
SMALL_BUCKET = 1000
"""Elements of DeepSpeed's communication buffers, so that they do not hide the rest."""
ACCUMULATION = 2


class Matrices(nn.Module):
    """Two trained matrices and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIDE, SIDE, bias=False) for _ in range(3))
        self.layers[2].requires_grad_(False)

    def forward(self, batch: Batch) -> StepOutput:
        x = batch.fields.flatten().to(self.layers[0].weight.dtype)
        for layer in self.layers:
            x = layer(x)
        return StepOutput(loss=x.float().square().mean())


Storages = dict[int, torch.UntypedStorage]


def live_storages() -> Storages:
    """Of all tensors that are not on the meta device. Who holds them keeps their keys from being given again."""
    gc.collect()
    storages: Storages = {}
    for value in gc.get_objects():
        # some objects answer isinstance by importing something; a tensor's own type never does
        if issubclass(type(value), torch.Tensor) and value.device.type != "meta":
            for tensor in (value, *([value.grad] if value.is_leaf and value.grad is not None else [])):
                storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
    return storages


def largest_sum(case: dict[str, Any], world: World) -> int:
    """Bytes at the end of a backward pass after the optimiser has its states, beyond those before the engine."""
    before, module = live_storages(), Matrices()
    settings = OptimizerConfig(average_decay=case.get("average_decay"))
    config = EngineConfig(zero_stage=case["stage"], precision=case["precision"], micro_batch_size=1)
    optimizer = build_optimizer(settings, module, engine=config)
    engine = zero_engine(
        module,
        optimizer,
        engine=config,
        settings=settings,
        learning_rate=lambda _step: 1e-3,
        world=world,
        accumulation=ACCUMULATION,
    )
    batches = [make_batch(num_windows=1, frames=1, channels=("density",), space=(SIDE,)) for _ in range(ACCUMULATION)]
    engine.step(batches)
    sums: list[int] = []
    backward = engine._engine.backward

    def counted_backward(loss: torch.Tensor) -> None:
        backward(loss)
        sums.append(sum(storage.nbytes() for key, storage in live_storages().items() if key not in before))

    with patch.object(engine._engine, "backward", counted_backward):
        engine.step(batches)
    engine.close()
    return max(sums)


def main(asked: Path, result: Path) -> None:
    world = world_from_environment()
    import_deepspeed()
    gc.freeze()  # what the imports made is not searched
    with (
        patch("gc.freeze"),  # by which an engine would hide the tensors of cases
        patch("trainer.engine.zero_config.BUCKET_ELEMENTS", SMALL_BUCKET),
        process_group(world, timeout_seconds=60),
    ):
        found = {name: largest_sum(case, world) for name, case in json.loads(asked.read_text()).items()}
    if world.is_main:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
