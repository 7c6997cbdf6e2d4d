"""One tokeniser at every compression of its set: which are scored, in which order, and what is said of them."""

import json
from pathlib import Path

import pytest
import torch

from tests.unit.prepared import prepare
from tests.unit.saved_runs import ALONE, Entries
from trainer.__main__ import main
from trainer.config.load import load_text
from trainer.config.schema import RunConfig
from trainer.data.stream import open_datasets, vocabulary
from trainer.rate_distortion import Point, RateDistortion
from trainer.snapshot import About, Keep, RunState, Snapshots
from trainer.stages.build import build_stage

CONFIG = """
name: set
output: {folder}/run
steps: 6
stage:
  kind: tokeniser
  tokeniser: {{widths: [8, 8], kernels: [{{time: 2}}, {{}}], blocks: [1, 1], latent_channels: 3}}
  compressions:
    - levels: [{{time: 2, space: 2}}, {{space: 2}}]
    - levels: [{{space: 2}}, {{}}]
    - levels: [{{space: 2}}, {{space: 2}}]
data:
  datasets: [{{url: {folder}/data}}]
  window: {{frames: 3}}
  batch_size: 4
engine: {{micro_batch_size: 2}}
evaluation: {{max_windows: 3}}
"""
DYNAMICS = "{kind: dynamics, tokeniser: {widths: [8], kernels: [{}], blocks: [1]}, processor: {}, "
DYNAMICS += "compressions: [{levels: [{space: 2}]}]}"


def save_untrained(folder: Path, *overrides: str) -> str:
    """A run of step 0 of the config above."""
    prepare(folder / "data", lengths=(6, 6, 6), splits=("train", "valid", "test"), resolution=(8, 8))
    text = CONFIG.format(folder=folder)
    config = load_text(text, RunConfig, source="test", overrides=overrides)
    names = vocabulary(open_datasets(config.data))
    torch.manual_seed(0)
    stage = build_stage(config.stage, field_names=names, space_rank=2, window_frames=3)
    entries = {name: {"weight": weight} for name, weight in stage.module.state_dict().items()}
    snapshots = Snapshots(f"{folder}/run/snapshots", keep=Keep(last=1), world=ALONE)
    saved = text if not overrides else text.split("stage:")[0] + f"stage: {DYNAMICS}\ndata:" + text.split("data:", 1)[1]
    about = About(config=saved, field_names=tuple(names), space_rank=2)
    snapshots.begin(Entries(entries), RunState(step=0, samples_seen=0), about=about, scores={})
    snapshots.settle()
    return f"{folder}/run"


def test_every_compression_of_the_set_is_scored_the_lightest_first(tmp_path: Path, capsys) -> None:
    run = save_untrained(tmp_path)
    assert main(["evaluate", run, "--compression", "all", "--pictures", str(tmp_path / "pictures")]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["compressions"]
    assert [entry["compression"] for entry in found] == [1, 2, 0]
    # 3 frames of 8 x 8 with 3 channels: 3 x 4 x 4, 3 x 2 x 2 and 2 x 2 x 2 latents of 3 channels
    assert [entry["tokens_to_one"] for entry in found] == [entry["elements_to_one"] for entry in found] == [4, 16, 24]
    assert [line.split()[0] for line in err.splitlines()[1:4]] == ["1", "2", "0"]
    assert (tmp_path / "pictures" / "rate_distortion.png").read_bytes()[:4] == b"\x89PNG"


def test_the_first_compression_scores_what_evaluate_says_without_the_option(tmp_path: Path, capsys) -> None:
    run = save_untrained(tmp_path)
    main(["evaluate", run])
    alone = json.loads(capsys.readouterr().out)
    main(["evaluate", run, "--compression", "all"])
    scores = {e["compression"]: e["scores"] for e in json.loads(capsys.readouterr().out)["compressions"]}
    assert scores[0] == alone
    assert scores[1] != alone


def test_a_dynamics_run_has_no_set_of_compressions(tmp_path: Path, capsys) -> None:
    run = save_untrained(tmp_path, f"stage={DYNAMICS}")
    assert main(["evaluate", run, "--compression", "all"]) == 2
    assert "is of a dynamics run, which has one compression" in capsys.readouterr().err


@pytest.mark.parametrize(("errors", "monotone"), [((0.1, 0.2, 0.3), True), ((0.1, 0.3, 0.2), False)])
def test_a_table_says_whether_the_error_grows(errors: tuple[float, ...], monotone: bool) -> None:
    bands = {f"test/spectral_{band}": 0.1 for band in ("low", "mid", "high")}
    points = tuple(Point(n, ((1, 2),), 4.0, 2.0, {"test/vrmse": error} | bands) for n, error in enumerate(errors))
    measured = RateDistortion("run", "test", points, samples=(), ratios_of="")
    assert measured.is_monotone is monotone
    assert ("does NOT grow" in measured.as_table()) is not monotone
