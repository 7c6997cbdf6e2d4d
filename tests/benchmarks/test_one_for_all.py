"""One tokeniser for several compressions against one for each.

    python -m tests.benchmarks.test_one_for_all SHARDS [OVERRIDES]       as `stage.tokeniser.stride_gains=false`

SHARDS is a prepared dataset; configs/tokeniser/flexible.yaml says how its own is made, and what is trained here. The
one tokeniser draws its compression at each step; each of the others has one compression and a share of the steps, so
that every compression gets an equal number of steps either way. Both are scored on the held-out split, by the mean over
seeds: one alone says little, since at the lightest compression they lie 20% apart. As an ordinary test it runs once for
a few steps and asserts that the comparison is fair, not who wins.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch

from tests.unit.prepared import prepare
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.preemption import Notice
from trainer.rate_distortion import RateDistortion, measure_compressions
from trainer.run import train_run
from trainer.trained import open_trained
from trainer.world import world_from_environment

STEPS = 200
"""At each compression."""
SEEDS = range(3)
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "tokeniser" / "flexible.yaml"


def compare(shards: str, folder: Path, *, steps: int, overrides: Sequence[str] = ()) -> list[dict[str, float]]:
    """For each compression, the lightest first: VRMSE of the one tokeniser and of that compression's own."""
    common = (f"data.datasets=[{{url: {shards}}}]", "engine.kind=plain", *overrides)
    config = load_yaml(CONFIG, RunConfig, overrides=common)
    count = len(config.stage.compressions)
    together = train(folder / "together", steps=count * steps, overrides=common)
    rows = []
    for point in together.points:
        levels = config.stage.compressions[point.compression].model_dump_json()
        one = (*common, f"stage.compressions=[{levels}]")
        alone = train(folder / f"alone-{point.compression}", steps=steps, overrides=one)
        rows.append(
            {
                "numbers_to_one": point.elements_to_one,
                "together": together.error(point),
                "alone": alone.error(alone.points[0]),
            }
        )
    return rows


def train(folder: Path, *, steps: int, overrides: Sequence[str]) -> RateDistortion:
    places = (f"output={folder}", f"steps={steps}", f"evaluation.every_steps={steps}", f"snapshots.every_steps={steps}")
    warmup = f"optimizer.schedule.warmup_steps={min(30, steps // 10)}"
    config = load_yaml(CONFIG, RunConfig, overrides=(*overrides, *places, warmup))
    assert train_run(config, Notice()) == 0
    return measure_compressions(open_trained(str(folder), world=world_from_environment()))


def test_each_compression_is_compared_with_its_own_tokeniser(tmp_path: Path) -> None:
    data = prepare(tmp_path / "data", lengths=(6, 6), splits=("train", "valid"), resolution=(16, 16))
    small = (
        "data.batch_size=4",
        "stage.tokeniser.widths=[4]",
        "stage.tokeniser.blocks=[0]",
        "evaluation.max_windows=2",
    )
    rows = compare(data.url, tmp_path, steps=2, overrides=small)
    assert [row["numbers_to_one"] for row in rows] == sorted(row["numbers_to_one"] for row in rows)
    assert all(row["together"] > 0 and row["alone"] > 0 for row in rows)


def report(rows: Sequence[Sequence[dict[str, float]]]) -> str:
    """One line for each compression, of the mean over the rows of each seed."""
    lines = []
    for same in zip(*rows, strict=True):
        together, alone = (fmean(row[key] for row in same) for key in ("together", "alone"))
        errors = f"one for all {together:.4f}, its own {alone:.4f} ({together / alone - 1:+.0%})"
        lines.append(f"{same[0]['numbers_to_one']:6.3g} numbers to one: {errors}")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = []
    for seed in SEEDS:
        with TemporaryDirectory() as scratch:
            changes = (*sys.argv[2:], f"seed={seed}")
            found.append(compare(sys.argv[1], Path(scratch), steps=STEPS, overrides=changes))
        print(f"seed {seed}\n{report(found[-1:])}", flush=True)
    print(f"mean over seeds, {STEPS} steps at each compression, VRMSE on held-out data\n{report(found)}")
