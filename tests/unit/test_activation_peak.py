"""What `check` predicts of memory and work, against a step that runs: the small configs.

Windows are as large as activations need to rule the peak; on smaller ones recomputation saves less than `check` says.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.config.load import load_yaml
from trainer.config.schema import EngineConfig, RunConfig
from trainer.engine.recompute import blocks_to_recompute, recompute
from trainer.interfaces import Stage
from trainer.memory import activation_bytes
from trainer.models.cost import count_flops
from trainer.stages.build import build_stage

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def stage_and_batch(kind: str, *, num_windows: int = 1, side: int = 80) -> tuple[Stage, Batch]:
    config = load_yaml(CONFIGS / kind / "small.yaml", RunConfig)
    frames = 5
    torch.manual_seed(0)
    stage = build_stage(config.stage, field_names=("density", "momentum_x"), space_rank=2, window_frames=frames)
    return stage, make_batch(num_windows=num_windows, frames=frames, space=(side, side))


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that tensors held at once beyond what they held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    changes = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(
    ("kind", "choice"),
    [
        ("tokeniser", {}),
        ("tokeniser", {"recompute_every": 3}),
        ("dynamics", {}),
        ("dynamics", {"recompute_classes": ("attention",), "recompute_every": 2}),
    ],
)
def test_recomputing_cuts_the_measured_peak_by_what_check_predicts(kind: str, choice: dict[str, Any]) -> None:
    """Windows are large enough that activations rule over what operators use while they run."""
    stage, batch = stage_and_batch(kind)
    blocks = blocks_to_recompute(stage, EngineConfig(micro_batch_size=1, **choice))
    predicted = activation_bytes(stage.module, batch, blocks=blocks)
    for parameter in stage.module.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that gradients are no part of the peak
    kept = peak_bytes(lambda: stage.module(batch).loss.backward())
    recompute(blocks)
    recomputed = peak_bytes(lambda: stage.module(batch).loss.backward())
    assert kept - recomputed == pytest.approx(predicted.kept - predicted.recomputed, rel=0.1)


@pytest.mark.parametrize("kind", ["tokeniser", "dynamics"])
def test_operations_counted_without_memory_are_those_of_a_step_that_runs(kind: str) -> None:
    stage, batch = stage_and_batch(kind)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel of the CPU is not counted
        run = count_flops(lambda: stage.module(batch).loss.backward())
    stage.module.to("meta")
    meta = batch.to(torch.device("meta"))
    assert count_flops(lambda: stage.module(meta).loss.backward()) == run
