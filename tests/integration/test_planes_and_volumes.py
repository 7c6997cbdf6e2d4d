"""One run on data of two and of three space axes: the same losses under ZeRO-3 on two ranks as in one process."""

import json
from pathlib import Path

import pytest

from tests.integration.tiny_run import write_tiny_run
from tests.integration.trainings import Workshop
from tests.unit.prepared import prepare

STEPS = 8


def losses_of(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_planes_and_volumes_train_alike_on_one_rank_and_on_two(tmp_path: Path) -> None:
    config = str(write_tiny_run(tmp_path, name="mixed", targets=tmp_path / "targets", steps=STEPS))
    prepare(tmp_path / "volume", name="volume", splits=("train", "valid"), resolution=(4, 6, 4))
    datasets = f"data.datasets=[{{url: {tmp_path}/data, window: {{frames: 2, crop: 5}}}}, {{url: {tmp_path}/volume}}]"
    for name, engine, size in (("alone", "{kind: plain", 1), ("sharded", "{zero_stage: 3", 2)):
        overrides = (datasets, f"engine={engine}, micro_batch_size: 2}}", f"output={tmp_path}/{name}")
        Workshop(tmp_path).finish("trainer", "train", config, *overrides, size=size)
    alone, sharded = losses_of(tmp_path / "alone"), losses_of(tmp_path / "sharded")
    assert len(alone) == STEPS
    assert sharded == pytest.approx(alone, rel=1e-5)
