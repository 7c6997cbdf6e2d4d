"""The smallest real training: random fields of a few kilobytes, a model of a few thousand weights."""

import json
from pathlib import Path

from tests.unit.prepared import prepare

CONFIG = """\
name: {name}
output: {output}
steps: {steps}
stage:
  kind: tokeniser
  tokeniser: {{widths: [4], kernels: [{{space: 2}}], blocks: [1], latent_channels: 4}}
  compressions: [{{levels: [{{space: 2}}]}}]
data:
  datasets: [{{url: {data}}}]
  window: {{frames: 2}}
  batch_size: 4
engine: {{zero_stage: 2, micro_batch_size: 2}}
evaluation: {{every_steps: 5, max_windows: 2}}
snapshots: {{every_steps: 50}}
metrics: {{log_every_steps: 1, prometheus_port: 0, prometheus_targets: {targets}}}
"""


ENDLESS = 10**6
"""Steps of a run that no test waits for."""


def write_tiny_run(folder: Path, *, name: str, targets: Path, steps: int = ENDLESS) -> Path:
    """The config of a run in `folder`, with its data beside it. Gives the config's path."""
    data = folder / "data"
    prepare(data, lengths=(12, 12, 6), splits=("train", "train", "valid"), resolution=(8, 8))
    config = folder / f"{name}.yaml"
    text = CONFIG.format(name=name, output=folder / "run", steps=steps, data=data, targets=targets)
    config.write_text(text)
    return config


def logged_steps(folder: Path) -> list[int]:
    """The steps of training that the run in `folder` has logged."""
    log = folder / "run" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record["step"] for record in records if "loss" in record]


def newest_snapshot(folder: Path) -> int:
    """The step of the newest whole snapshot of the run in `folder`."""
    return max(
        int(path.parent.name.removeprefix("step-")) for path in folder.glob("run/snapshots/step-*/manifest.json")
    )
