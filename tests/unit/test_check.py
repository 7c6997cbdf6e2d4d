"""What `check` says of a run, from its config and a prepared dataset, with nothing of the model's size allocated."""

from pathlib import Path

import pytest

from data_prep.contract.manifest import Split
from tests.unit.prepared import prepare
from tests.unit.saved_runs import ALONE, Entries, make_entries
from trainer.check import check_run
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.errors import ConfigError, RefusedError
from trainer.snapshot import About, Keep, RunState, Snapshots

CONFIG = """
name: small
output: runs/small
steps: 6
stage:
  kind: dynamics
  tokeniser: {widths: [8, 16], kernels: [{time: 2}, {}], blocks: [1, 1], latent_channels: 3}
  processor: {width: 16, depth: 1, num_heads: 2, feed_forward: 32}
  compressions: [{levels: [{space: 2}, {time: 2, space: 2}]}]
data:
  datasets: [{url: DATA}]
  window: {frames: 5}
  batch_size: 4
engine: {micro_batch_size: 2}
"""


TOKENISER = CONFIG.replace("kind: dynamics", "kind: tokeniser").replace(
    "  processor: {width: 16, depth: 1, num_heads: 2, feed_forward: 32}\n", ""
)


def report(
    folder: Path,
    *overrides: str,
    resolution: tuple[int, ...] = (8, 12),
    splits: tuple[Split, ...] = ("train", "train", "valid"),
) -> str:
    data = prepare(folder / "data", name="waves", lengths=(10, 7, 9), splits=splits, resolution=resolution)
    path = folder / "small.yaml"
    path.write_text(CONFIG.replace("DATA", data.url))
    return check_run(load_yaml(path, RunConfig, overrides=overrides))


def line(text: str, start: str) -> str:
    return next(part.strip() for part in text.splitlines() if part.strip().startswith(start))


def number(text: str, start: str) -> int:
    return int(line(text, start).split()[1].replace(",", ""))


def test_the_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    text = report(tmp_path)
    parts = text.split("\n\n")[1].splitlines()[1:-1]
    assert sum(number(text, part.strip().split()[0]) for part in parts) == number(text, "all")


def test_frozen_parameters_are_named(tmp_path: Path) -> None:
    text = report(tmp_path, "stage.trainable=processor")
    assert "frozen" in line(text, "tokeniser.encoder")
    assert "frozen" not in line(text, "processor.blocks")


def test_axes_of_space_may_have_strides_of_their_own(tmp_path: Path) -> None:
    text = report(tmp_path, "stage.compressions=[{levels: [{space: [4, 2]}, {time: 2, space: 2}]}]")
    assert "9 tokens = 3 x 1 x 3 of 3 channels" in line(text, "compression 0 (time 2, space 8 x 4)")


def test_strides_along_other_axes_than_the_data_has_are_refused(tmp_path: Path) -> None:
    match = r"compressions\.0: a stride in space is of 3 axes, but dataset waves has 2 \(x, y\); name data of as many"
    with pytest.raises(RefusedError, match=match):
        report(tmp_path, "stage.compressions=[{levels: [{space: [4, 2, 1]}, {space: 2}]}]")


def test_a_stride_along_one_axis_is_no_wider_than_the_kernel(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stage\.compressions\.0\.levels\.0 is wider than its kernel"):
        report(tmp_path, "stage.compressions=[{levels: [{space: [2, 8]}, {space: 2}]}]")


def test_latents_are_counted_for_each_compression(tmp_path: Path) -> None:
    text = report(tmp_path)
    assert "waves: 5 frames of 3 channels on 8 x 12" in text
    # 5 frames of 8 x 12 become 3 of 2 x 3: 480 positions of 3 channels, 18 tokens of 3
    expected = "18 tokens = 3 x 2 x 3 of 3 channels; 26.7 to 1 in tokens, 26.7 to 1 in elements; "
    assert line(text, "compression 0 (time 2, space 4)").endswith(expected + "36 tokens in a micro-batch of 2")


def test_the_symmetries_of_a_dataset_are_counted(tmp_path: Path) -> None:
    assert "turns" not in report(tmp_path / "plain")
    text = report(tmp_path / "moved", "data.augment={turns: all, rolls: true}")
    assert "waves: seen under 4 turns, rolled along x" in text  # axes of 8 and 12 points do not change places


def test_a_cache_is_held_against_the_data_and_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    text = report(tmp_path, f"data.cache={{folder: {folder}, bytes: 1048576}}", "data.shards_in_group=1")
    assert f"cache: 1.05 MB in {folder}, 100% of the " in text
    assert "of the 1 largest shards fit" in text
    assert "cache: waves lies on the same disk, so keeping its records gains nothing" in text
    assert not folder.parent.exists()
    text = report(tmp_path, f"data.cache={{folder: {folder}, bytes: {2**50}}}")
    assert "are free in " in text


def test_a_grid_that_does_not_divide_is_rounded_up(tmp_path: Path) -> None:
    assert "3 x 3 x 3 of 3 channels" in report(tmp_path, resolution=(9, 12))


def test_epochs_follow_from_steps_and_windows(tmp_path: Path) -> None:
    text = report(tmp_path)
    # windows of 5 frames: 6 of the first trajectory, 3 of the second; 6 steps of 4 are 24
    assert line(text, "waves: 9") == "waves: 9 windows of 2 trajectories; 100% of the batches, 2.67 epochs"
    assert line(text, "ranks that can share").endswith("micro-batches of 2: 1, 2")


def test_the_first_windows_are_those_of_the_order(tmp_path: Path) -> None:
    assert report(tmp_path / "a").split("first windows")[1] == report(tmp_path / "b").split("first windows")[1]
    other = report(tmp_path / "c", "seed=1").split("first windows")[1]
    assert other != report(tmp_path / "d").split("first windows")[1]


def test_recomputing_is_marked_where_the_config_asks_for_it(tmp_path: Path) -> None:
    assert "recompute=true" not in line(report(tmp_path / "a"), "2 windows kept")
    assert line(report(tmp_path / "b", "engine.recompute=true"), "with engine.recompute").endswith("(this config)")


def test_work_is_counted_for_a_window_and_a_latent_position(tmp_path: Path) -> None:
    # 2 windows of 18 tokens in a micro-batch
    work = line(report(tmp_path), "waves, compression 0").split(": ")[1].split()
    of_window, of_token = (float(work[place]) * {"k": 1e3, "M": 1e6}[work[place + 1][0]] for place in (0, 2))
    assert of_window == pytest.approx(18 * of_token, rel=0.01)


def test_three_axes_of_space_are_checked_too(tmp_path: Path) -> None:
    assert "5 frames of 4 channels on 4 x 4 x 8" in report(tmp_path, resolution=(4, 4, 8))


def test_bfloat16_keeps_less(tmp_path: Path) -> None:
    def kept(text: str) -> float:
        return float(line(text, "2 windows kept").split(": ")[1].split()[0])

    # not half: indices, and what is computed in float32, keep their size
    assert kept(report(tmp_path / "a", "engine.precision=bf16")) < 0.7 * kept(report(tmp_path / "b"))


def test_a_window_longer_than_every_trajectory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="dataset waves has no window"):
        report(tmp_path, "data.window.frames=21")


def save(folder: Path, config: str, *, space_rank: int = 2) -> str:
    """A run that has written a snapshot; its weights matter to nobody here."""
    snapshots = Snapshots(str(folder / "snapshots"), keep=Keep(last=1), world=ALONE)
    about = About(config=config, field_names=("a",), space_rank=space_rank)
    snapshots.begin(Entries(make_entries()), RunState(step=1, samples_seen=4), about=about, scores={})
    snapshots.settle()
    return str(folder)


def test_a_tokeniser_of_the_same_sizes_may_be_started_from(tmp_path: Path) -> None:
    assert "first windows" in report(tmp_path, f"stage.start_from={save(tmp_path / 'run', TOKENISER)}")


def test_a_tokeniser_of_other_sizes_is_refused(tmp_path: Path) -> None:
    other = save(tmp_path / "run", TOKENISER.replace("latent_channels: 3", "latent_channels: 4"))
    with pytest.raises(RefusedError, match=r"not that of stage\.tokeniser:\n  latent_channels: 4 -> 3"):
        report(tmp_path, f"stage.start_from={other}")


def test_a_tokeniser_of_data_of_another_dimension_is_refused(tmp_path: Path) -> None:
    tokeniser = save(tmp_path / "run", TOKENISER)
    with pytest.raises(RefusedError, match=r"stage\.start_from: .* was trained on 2D data, but data\.datasets has 3D"):
        report(tmp_path, f"stage.start_from={tokeniser}", resolution=(4, 4, 8))


def test_from_a_tokeniser_of_volumes_a_run_on_planes_has_its_kernels(tmp_path: Path) -> None:
    tokeniser = save(tmp_path / "run", TOKENISER, space_rank=3)
    from_volumes, fresh = report(tmp_path, f"stage.start_from={tokeniser}"), report(tmp_path)
    assert number(from_volumes, "all") > number(fresh, "all")


def test_only_a_run_that_trained_a_tokeniser_may_be_started_from(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is of a dynamics run; name a tokeniser run"):
        report(tmp_path, f"stage.start_from={save(tmp_path / 'run', CONFIG)}")


def test_a_place_without_a_snapshot_may_not_be_started_from(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    for place in (tmp_path / "nowhere", tmp_path / "a-file"):
        with pytest.raises(RefusedError, match="is neither a snapshot"):
            report(tmp_path, f"stage.start_from={place}")


def test_a_run_that_goes_on_needs_its_tokeniser_no_more(tmp_path: Path) -> None:
    save(tmp_path / "run", CONFIG)
    started = f"stage.start_from={tmp_path}/removed"
    assert "first windows" in report(tmp_path, started, f"output={tmp_path}/run")


def test_a_condition_that_no_dataset_has_is_refused(tmp_path: Path) -> None:
    assert "first windows" in report(tmp_path / "has", "stage.processor.conditions=[time_step]")
    with pytest.raises(RefusedError, match="no dataset has a parameter gamma; they have time_step"):
        report(tmp_path / "lacks", "stage.processor.conditions=[time_step, gamma]")


def test_a_dataset_without_the_split_that_is_scored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="has no trajectory in its valid split"):
        report(tmp_path, splits=("train", "train", "train"))


def test_a_rollout_longer_than_the_data_is_refused(tmp_path: Path) -> None:
    assert "first windows" in report(tmp_path / "fits", "evaluation={context_frames: 3, rollout_frames: 6}")
    for longer in ("{context_frames: 3, rollout_frames: 7}", "{context_frames: 5, rollout_frames: 6}"):
        with pytest.raises(RefusedError, match="dataset waves has no window"):
            report(tmp_path / "longer", f"evaluation={longer}")
