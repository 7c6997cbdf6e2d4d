"""The next frame at equal training time: our dynamics model against The Well's FNO and CNextU-Net, their own code.

    python -m tests.benchmarks.test_baselines SHARDS [SECONDS]       100 s of CPU time each, unless told otherwise

SHARDS is a prepared dataset with a train, a valid and a test split; ours is configs/dynamics/one_step.yaml, which says
how its own is made. All see the same windows of four frames and the fifth, normalised alike, train on one thread and
are scored by the same function on every window of the test split. Theirs are trained with each of two learning rates,
of which the better on the valid split counts; ours with the one of its config. As an ordinary test it runs small, and
asserts that the comparison is fair, not who wins.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.one_step import shuffled, train, vrmse_of
from tests.integration.the_well_environment import the_well_python
from tests.unit.prepared import prepare
from trainer.batch import Batch
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.data.dataset import open_dataset
from trainer.data.stream import evaluation_loader, vocabulary
from trainer.stages.build import build_stage
from trainer.world import world_from_environment

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "dynamics" / "one_step.yaml"
THEIRS, RATES = ("fno", "cnextunet"), (1e-3, 5e-3)
SPLITS = ("train", "valid", "test")


def batches_of(config: RunConfig, shards: str, split: str) -> Iterator[Batch]:
    """Every window of the split once."""
    datasets = [open_dataset(shards, split=split)]
    loader = evaluation_loader(
        config.data,
        datasets,
        frames=None,
        max_windows=10**9,
        share=world_from_environment(),
        micro_batch_size=config.data.batch_size,
        field_ids={name: row for row, name in enumerate(vocabulary(datasets))},
        pin=False,
    )
    with loader:
        for batch, count in loader.scored():
            yield replace(batch, fields=batch.fields[:count].clone())


def ours(config: RunConfig, sample: Batch, windows: dict[str, Tensor], *, seconds: float) -> dict[str, Any]:
    """`sample` tells what the windows are: names, boundaries."""
    frames, space = windows["train"].shape[1], windows["train"].shape[3:]
    torch.manual_seed(config.seed)
    module = build_stage(config.stage, field_names=sample.channels, space_rank=len(space), window_frames=frames).module
    batches = shuffled(windows["train"], size=config.data.batch_size, seed=0)
    steps = train(
        module,
        lambda part: module(replace(sample, fields=part)).loss,
        batches,
        seconds=seconds,
        rate=config.optimizer.learning_rate,
    )

    def predict(part: Tensor) -> Tensor:
        predicted: Tensor = module(replace(sample, fields=part), predict=True)[:, -1]
        return predicted

    scores = {split: vrmse_of(predict, windows[split]) for split in SPLITS[1:]}
    return {"parameters": sum(p.numel() for p in module.parameters()), "steps": steps, **scores}


def theirs(python: Path, file: Path, name: str, *, seconds: float, batch_size: int, is_small: bool) -> dict[str, Any]:
    """The better of `RATES` on the valid split."""
    results = []
    for rate in RATES[:1] if is_small else RATES:
        command = [str(python), "-W", "ignore", "-m", "tests.benchmarks.the_well_baselines"]
        command += [str(file), name, str(seconds), str(rate), str(batch_size), *(["small"] if is_small else [])]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        assert ended.returncode == 0, ended.stderr
        results.append({"rate": rate, **json.loads(ended.stdout)})
    return min(results, key=lambda result: float(result["valid"]))


def compare(
    shards: str, folder: Path, *, python: Path, seconds: float, overrides: tuple[str, ...] = (), is_small: bool = False
) -> dict[str, dict[str, Any]]:
    """By contestant: parameters, steps and VRMSE of the next frame on the valid and the test split."""
    config = load_yaml(CONFIG, RunConfig, overrides=(f"data.datasets=[{{url: {shards}}}]", *overrides))
    read = {split: list(batches_of(config, shards, split)) for split in SPLITS}
    windows = {split: torch.cat([batch.fields for batch in batches]) for split, batches in read.items()}
    torch.save(windows, folder / "windows.pt")
    unchanged = {split: vrmse_of(lambda part: part[:, -2], windows[split]) for split in SPLITS[1:]}
    found = {"no change": {"parameters": 0, "steps": 0, **unchanged}}
    found["ours"] = ours(config, read["train"][0], windows, seconds=seconds)
    for name in THEIRS:
        size = config.data.batch_size
        found[name] = theirs(python, folder / "windows.pt", name, seconds=seconds, batch_size=size, is_small=is_small)
    return found


def test_all_see_the_same_windows_for_the_same_time(the_well: Path, tmp_path: Path) -> None:
    data = prepare(tmp_path / "data", lengths=(8, 6, 6), splits=SPLITS, resolution=(16, 16))
    small = ("stage.tokeniser.widths=[4]", "stage.processor.width=8", "stage.processor.num_heads=2")
    found = compare(data.url, tmp_path, python=the_well, seconds=1.0, overrides=small, is_small=True)
    assert set(found) == {"no change", "ours", *THEIRS}
    assert all(result["steps"] > 0 and result["test"] > 0 for name, result in found.items() if name != "no change")


if __name__ == "__main__":
    torch.set_num_threads(1)
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 100.0
    with TemporaryDirectory() as scratch:
        found = compare(sys.argv[1], Path(scratch), python=the_well_python(), seconds=seconds)
    print(f"{seconds:g} s of CPU time each; VRMSE of the next frame")
    for name, result in found.items():
        print(
            f"{name:>10}: test {result['test']:.4f}, valid {result['valid']:.4f} "
            f"({result['steps']} steps, {result['parameters'] / 1e6:.3g}M parameters)"
        )
