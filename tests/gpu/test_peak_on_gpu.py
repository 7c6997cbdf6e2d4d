"""What `check` predicts of memory, against what the GPU's allocator saw."""

import pytest
import torch

from tests.unit.test_activation_peak import stage_and_batch
from trainer.batch import Batch
from trainer.config.schema import EngineConfig
from trainer.engine.recompute import blocks_to_recompute, recompute
from trainer.interfaces import Stage
from trainer.memory import activation_bytes
from trainer.world import World


def peak_bytes(stage: Stage, batch: Batch, device: torch.device) -> int:
    """Of a forward and a backward pass, beyond what is held before."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    stage.module(batch).loss.backward()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@pytest.mark.parametrize("kind", ["tokeniser", "dynamics"])
def test_recomputing_cuts_the_peak_by_what_check_predicts(gpu: World, kind: str) -> None:
    stage, batch = stage_and_batch(kind, num_windows=4, side=128)
    blocks = blocks_to_recompute(stage, EngineConfig(micro_batch_size=1))
    stage.module.to(gpu.device)
    batch = batch.to(gpu.device)
    predicted = activation_bytes(stage.module, batch, blocks=blocks)
    for parameter in stage.module.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that gradients are no part of the peak
    kept = peak_bytes(stage, batch, gpu.device)
    recompute(blocks)
    recomputed = peak_bytes(stage, batch, gpu.device)
    assert kept - recomputed == pytest.approx(predicted.kept - predicted.recomputed, rel=0.2)
