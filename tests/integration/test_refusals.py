"""What cannot be done is refused: one message with file and place, exit code 2, and nothing half-written."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.__main__ import main as data_prep
from tests.integration.conftest import OpenWorkshop
from tests.integration.tiny_corpus import EULER
from tests.integration.trainings import Workshop
from trainer.__main__ import main as trainer
from trainer.preemption import NOTICES

FAILED, REFUSED = 1, 2
TRAIN = ("train", "tokeniser.yaml", "output=new")


@pytest.fixture(autouse=True)
def _as_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The trainer takes this process's signals and tells the libraries its rank by the environment."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    handlers = {number: signal.getsignal(number) for number in NOTICES}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def workshop(open_workshop: OpenWorkshop, corpus: Path, pretrained: Workshop) -> Workshop:
    """Broken copies of the corpora, and the finished run `tokeniser`."""
    place = open_workshop("refusals")
    shutil.copytree(pretrained.folder / "tokeniser", place.folder / "tokeniser")
    for name, source in (("no-manifest", "euler"), ("no-chunk", "euler"), ("no-tar", "shear"), ("flipped", "shear")):
        shutil.copytree(corpus / source, place.folder / name)
    (place.folder / "no-manifest" / "manifest.json").unlink()
    (place.folder / "no-chunk" / "train" / "fields" / "c" / "0" / "0" / "0" / "0" / "0").unlink()
    (place.folder / "no-tar" / "train-000000.tar").unlink()
    flip_bytes(place.folder / "flipped" / "train-000000.tar")
    shutil.copytree(corpus / "source" / EULER, place.folder / "cut-short")
    shutil.copytree(corpus / "shear", place.folder / "short-tar")
    os.truncate(place.folder / "short-tar" / "train-000000.tar", 5000)
    path = sorted((place.folder / "cut-short" / "data" / "train").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-30_000])
    (place.folder / "a-file").touch()
    return place


def flip_bytes(path: Path) -> None:
    """One in every thousand, so that every record is hit."""
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 1000):
        content[position] ^= 0xFF
    path.write_bytes(content)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(workshop: Workshop, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message. Fails unless it is the only one, and the folder is as before."""
    before = contents(workshop.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop.folder)
        code = trainer(arguments)
    said = capsys.readouterr()
    assert (code, said.out) == (REFUSED, ""), said.err
    assert said.err.startswith("trainer: ")
    assert said.err.count("trainer: ") == 1
    assert contents(workshop.folder) == before
    return said.err.removeprefix("trainer: ").rstrip("\n")


def write(workshop: Workshop, name: str, *, old: str, new: str) -> str:
    """A config with one change; the number of its line can be told."""
    text = (workshop.folder / "tokeniser.yaml").read_text()
    assert text.count(old) == 1
    (workshop.folder / name).write_text(text.replace(old, new))
    return name


def test_an_unknown_key_gives_line_path_and_nearest_name(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(workshop, "unknown.yaml", old="latent_channels", new="latent_chanels")
    said = refused(workshop, capsys, "train", config, "output=new")
    assert said == (
        "unknown.yaml:7: stage.tokeniser.latent_chanels is no key of TokeniserModel; did you mean `latent_channels`?"
    )


def test_a_duplicate_key_gives_both_lines(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(workshop, "twice.yaml", old="steps: 60\n", new="steps: 60\nsteps: 70\n")
    said = refused(workshop, capsys, "train", config, "output=new")
    assert said == "twice.yaml:4: key `steps` is given twice in one map, first in line 3"


def test_a_wrong_type_gives_line_value_and_type(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(workshop, "type.yaml", old="steps: 60\n", new="steps: many\n")
    assert refused(workshop, capsys, "train", config, "output=new") == (
        'type.yaml:3: steps is "many"; expected an integer'
    )


@pytest.mark.parametrize(
    ("dataset", "shard"), [("no-chunk", "no-chunk/train/fields/c/0/0/0/0/0"), ("no-tar", "no-tar/train-000000.tar")]
)
def test_a_missing_shard_is_named(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], dataset: str, shard: str
) -> None:
    said = refused(workshop, capsys, *TRAIN, f"data.datasets=[{{url: {dataset}}}]")
    assert f"shard {shard}: the manifest names it, but there is no such object" in said
    assert said.endswith(f"run `python -m data_prep verify {dataset}`")


def test_a_shard_cut_short_is_refused_as_a_missing_one(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(workshop, capsys, *TRAIN, "data.datasets=[{url: short-tar}]")
    assert "dataset shear_flow, shard short-tar/train-000000.tar: 5000 bytes, but the manifest says" in said
    assert said.endswith("run `python -m data_prep verify short-tar`")


@pytest.mark.parametrize("dataset", ["no-manifest", "nowhere"])
def test_a_folder_that_is_no_dataset_is_named_with_the_cure(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    said = refused(workshop, capsys, *TRAIN, f"data.datasets=[{{url: {dataset}}}]")
    assert said.startswith(f"{dataset} has no manifest.json")
    assert "python -m data_prep convert" in said


def test_fields_that_a_model_does_not_know_are_named(
    workshop: Workshop, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(workshop, capsys, "evaluate", "tokeniser", f"data.datasets=[{{url: {corpus}/shear}}]")
    assert "tracer, velocity_x, velocity_y" in said
    assert "it knows density, energy, momentum_x, momentum_y, pressure" in said


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("nowhere", "nowhere is neither a snapshot (no manifest.json) nor a run folder with one"),
        ("no-tar", "no-tar/manifest.json is not of a snapshot"),
    ],
)
def test_dynamics_start_from_no_other_folder_than_a_runs(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], start: str, reason: str
) -> None:
    said = refused(workshop, capsys, "train", "dynamics.yaml", f"stage.start_from={start}")
    assert said.startswith(reason)
    assert "the `output` of a run that has written one" in said


def test_dynamics_start_from_no_tokeniser_of_other_sizes(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(workshop, capsys, "train", "dynamics.yaml", "stage.tokeniser.latent_channels=4")
    assert said.splitlines()[1:] == ["  latent_channels: 8 -> 4", "set stage.tokeniser to the values on the left"]


def test_a_run_goes_on_with_no_other_learning_rate(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(workshop, capsys, "train", "tokeniser.yaml", "optimizer.learning_rate=1e-4")
    assert said.splitlines() == [
        "tokeniser: its snapshots are of a run with other values of",
        "  optimizer.learning_rate: 0.003 -> 0.0001",
        "set them back, give this run another `output`, or go on with the new values all the same: "
        "--accept=optimizer.learning_rate",
    ]


def test_a_key_that_is_none_cannot_be_accepted(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(workshop, capsys, "train", "tokeniser.yaml", "--accept=data.batchsize")
    assert said.startswith("--accept=data.batchsize: no key of this config")


def test_a_batch_that_ranks_cannot_share_is_refused_before_they_meet(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ.update({"RANK": "0", "WORLD_SIZE": "3"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop.folder)
        assert trainer(TRAIN) == REFUSED
    said = capsys.readouterr().err
    assert said.startswith("trainer [rank 0]: data.batch_size is 4, which 3 ranks cannot share in micro-batches of 2")
    assert "make it a multiple of 6" in said
    assert not (workshop.folder / "new").exists()


def test_an_output_that_cannot_be_made_is_named(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(workshop, capsys, "train", "tokeniser.yaml", "output=a-file/run", "engine.kind=plain")
    assert said == "output: a-file/run: Not a directory; name a folder to write to"


def test_usage_does_not_ask_for_what_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        trainer(("train",))
    assert ended.value.code == REFUSED
    assert capsys.readouterr().err.endswith("the following arguments are required: CONFIG\n")


def test_a_run_among_shards_is_refused(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(workshop, capsys, "train", "tokeniser.yaml", "output=flipped/run", "engine.kind=plain")
    assert (
        said == f"output: flipped/run lies in the prepared dataset {workshop.folder}/flipped; name a folder elsewhere"
    )


def test_damaged_bytes_end_a_run_with_dataset_shard_and_window(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    code = trainer(("train", "tokeniser.yaml", "output=stopped", "engine.kind=plain", "data.datasets=[{url: flipped}]"))
    said = capsys.readouterr().err
    assert code == FAILED
    assert "dataset shear_flow, shard flipped/train-000000.tar, window of 3 frames from frame" in said
    assert said.count("trainer: ") == 1
    assert workshop.snapshots("stopped") == []


def test_a_file_cut_short_is_refused_before_anything_is_written(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    source, destination = workshop.folder / "cut-short", workshop.folder / "prepared"
    assert data_prep(["convert", str(source), str(destination), "--format", "zarr"]) == REFUSED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"refused: {source}/data/train/")
    assert "the file is damaged or was not copied completely" in said.err
    assert said.err.count("\n") == 1
    assert not destination.exists()


def test_the_process_itself_exits_with_2(workshop: Workshop) -> None:
    ended = workshop.run("trainer", "train", "tokeniser.yaml", "seed=-1")
    assert ended.code == REFUSED
    assert (ended.out, ended.err.count("\n")) == ("", 1)
    assert ended.err.startswith("trainer: override `seed=-1`: seed is -1")
