"""One tokeniser for several compressions against one for each: `python -m tests.benchmarks.test_one_for_all SHARDS`.

SHARDS is a prepared dataset; configs/tokeniser/flexible.yaml says how its own is made, and what is trained here. The
one tokeniser draws its compression at each step; each of the others has one compression and a share of the steps, so
that every compression gets an equal number of steps either way. Both are scored on the held-out split. As an ordinary
test it runs once for a few steps and asserts that the comparison is fair, not who wins.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    with TemporaryDirectory() as scratch:
        found = compare(sys.argv[1], Path(scratch), steps=steps)
    print(f"{steps} steps at each compression; VRMSE on held-out data")
    for row in found:
        excess = row["together"] / row["alone"] - 1
        errors = f"one for all {row['together']:.4f}, its own {row['alone']:.4f} ({excess:+.0%})"
        print(f"{row['numbers_to_one']:6.3g} numbers to one: {errors}")
