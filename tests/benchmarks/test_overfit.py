"""The tiny dynamics model learns one trajectory by heart: run as `python -m tests.benchmarks.test_overfit SHARDS`.

SHARDS is a prepared dataset, of which the first window of training is taken; the model is configs/dynamics/tiny.yaml
from scratch. A model that cannot come to a VRMSE below 0.02 here has something in its way: gradients, conditioning,
capacity. As an ordinary test it learns a wave for a few seconds and must predict it far better than by no change.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.data.stream import open_datasets, space_rank, training_loader, vocabulary
from trainer.evaluate import evaluate_frames
from trainer.stages.build import build_stage
from trainer.world import keep_freed_memory, world_from_environment

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "dynamics" / "tiny.yaml"
GOAL = 0.02


def learn(batch: Batch, *, field_names: tuple[str, ...], steps: int, score_every: int) -> Iterator[dict[str, float]]:
    """Scores of the next frame on the batch itself, each time after `score_every` steps."""
    overrides = ("stage.start_from=null", "stage.output=change", f"data.window.frames={batch.fields.shape[1]}")
    config = load_yaml(CONFIG, RunConfig, overrides=overrides)
    torch.manual_seed(0)
    space = batch.fields.ndim - 3
    stage = build_stage(config.stage, field_names=field_names, space_rank=space, window_frames=batch.fields.shape[1])
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        loss = stage.module(batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % score_every == 0:
            scored = [(batch, batch.num_windows)]
            yield evaluate_frames(stage.module, scored, first_frame=1, sum_over_ranks=lambda total: total)


def one_window(shards: str, *, frames: int) -> tuple[Batch, tuple[str, ...]]:
    overrides = (f"data.datasets=[{{url: {shards}}}]", f"data.window.frames={frames}", "data.batch_size=1")
    data = load_yaml(
        CONFIG, RunConfig, overrides=("stage.start_from=null", "engine.micro_batch_size=1", *overrides)
    ).data
    datasets = open_datasets(data)
    names = vocabulary(datasets)
    assert space_rank(datasets)
    loader = training_loader(
        data,
        datasets,
        seed=0,
        step=0,
        share=world_from_environment(),
        micro_batch_size=1,
        field_ids={name: row for row, name in enumerate(names)},
        pin=False,
    )
    with loader:
        batch = loader.take(1)[0]
        return batch.to(torch.device("cpu")), names


def test_a_wave_is_learnt_by_heart() -> None:
    x = torch.arange(16) * (2 * math.pi / 16)
    phases = torch.arange(4) * 0.6
    wave = torch.sin(x + phases[:, None])[:, None, None, :].expand(4, 2, 16, 16)
    batch = make_batch(num_windows=1, frames=4, space=(16, 16))
    batch.fields[:] = wave
    *_, scores = learn(batch, field_names=batch.channels, steps=60, score_every=20)
    assert scores["vrmse"] < 0.3 * scores["vrmse_persistence"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))
    found, names = one_window(sys.argv[1], frames=int(sys.argv[3]) if len(sys.argv) > 3 else 24)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    for number, scores in enumerate(learn(found, field_names=names, steps=steps, score_every=steps // 12), start=1):
        print(
            f"step {number * (steps // 12)}: VRMSE {scores['vrmse']:.4f} "
            f"(no change {scores['vrmse_persistence']:.4f}; the goal is {GOAL})",
            flush=True,
        )
