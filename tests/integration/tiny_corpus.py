"""Two small simulated corpora, and the smallest configs of both stages that learn something on them."""

from pathlib import Path

from data_prep.__main__ import main

EULER, SHEAR = "euler_multi_quadrants_periodicBC", "shear_flow"
SIZES = (
    *("--trajectories", "4", "--valid", "2", "--test", "2", "--parameter-sets", "2"),
    *("--resolution", "32", "--steps", "10", "--workers", "1"),
)
STEPS = 60
"""Of the configs below: long enough that a signal at step 10 comes before the end."""

TOKENISER = """\
name: tokeniser
output: tokeniser
steps: 60
stage:
  kind: tokeniser
  tokeniser:
    {{widths: [8, 16], kernels: [{{time: 1, space: 2}}, {{time: 1, space: 2}}], blocks: [0, 1], latent_channels: 8}}
  compressions: [{{levels: [{{space: 2}}, {{space: 2}}]}}]
data:
  datasets: [{{url: {corpus}/euler}}]
  window: {{frames: 3}}
  batch_size: 4
optimizer: {{learning_rate: 3e-3, schedule: {{warmup_steps: 2}}}}
engine: {{zero_stage: 2, micro_batch_size: 2}}
evaluation: {{every_steps: 30, max_windows: 4}}
snapshots: {{every_steps: 10}}
metrics: {{log_every_steps: 1}}
"""

DYNAMICS = """\
base: tokeniser.yaml
name: dynamics
output: dynamics
stage:
  kind: dynamics
  tokeniser:
    {widths: [8, 16], kernels: [{time: 1, space: 2}, {time: 1, space: 2}], blocks: [0, 1], latent_channels: 8}
  processor: {width: 32, depth: 1, num_heads: 2, feed_forward: 64}
  compressions: [{levels: [{space: 2}, {space: 2}]}]
  start_from: tokeniser
evaluation: {context_frames: 3, rollout_frames: 4}
"""

STUDY = """\
name: tiny
output: study
tokeniser: study-tokeniser.yaml
dynamics: study-dynamics.yaml
in_domain: [{{url: {corpus}/euler}}]
out_of_domain: [{{url: {corpus}/shear}}]
test: {{split: test, max_windows: 4, context_frames: 3, rollout_frames: 4}}
"""

STUDY_STEPS = 30
STUDY_RUNS = "steps: 30\nengine: {kind: plain}\n"
"""What the six runs of the study change in the configs above: one process without DeepSpeed starts soonest."""

WIDE_PROCESSOR = ("stage.processor.width=128", "stage.processor.feed_forward=1000")
WIDE = ("stage.tokeniser.widths=[8,128]", *WIDE_PROCESSOR, "stage.start_from=null")
"""Makes the dynamics hold weights that ZeRO-3 shards: of 100 000 elements and more."""


def make_corpus(folder: Path) -> None:
    """`source/SYSTEM` in The Well's format, and both systems prepared: `euler` as zarr, `shear` as tars."""
    for system, name, layout in ((EULER, "euler", "zarr"), (SHEAR, "shear", "webdataset")):
        assert main(["simulate", system, "--out", str(folder / "source"), *SIZES]) == 0
        assert main(["convert", str(folder / "source" / system), str(folder / name), "--format", layout]) == 0


def write_configs(folder: Path, corpus: Path) -> None:
    """`tokeniser.yaml`, `dynamics.yaml`, and `study.yaml` with its templates; they write to the working folder."""
    (folder / "tokeniser.yaml").write_text(TOKENISER.format(corpus=corpus))
    (folder / "dynamics.yaml").write_text(DYNAMICS)
    (folder / "study-tokeniser.yaml").write_text(f"base: tokeniser.yaml\n{STUDY_RUNS}")
    (folder / "study-dynamics.yaml").write_text(DYNAMICS + STUDY_RUNS)
    (folder / "study.yaml").write_text(STUDY.format(corpus=corpus))
