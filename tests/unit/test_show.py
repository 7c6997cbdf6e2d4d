"""`show` and `statistics`: what a person sees of a corpus before and after conversion."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.__main__ import main
from tests.unit.tiny_well import TinyBoundary, TinyField, write_dataset, write_file

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    write_dataset(tmp_path / "tiny", fields=FIELDS, scalars={"gamma": 1.4})
    return tmp_path / "tiny"


def prepared(tiny: Path) -> Path:
    assert main(["convert", str(tiny), str(tiny.with_name("out")), "--format", "webdataset"]) == 0
    return tiny.with_name("out")


def shown(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert main(["show", str(path), *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("is_prepared", [False, True], ids=["source", "prepared"])
def test_the_table_says_what_there_is(tiny: Path, is_prepared: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(prepared(tiny) if is_prepared else tiny, capsys)
    assert "tiny" in text
    assert "x: 4 points from 0 to 1, periodic" in text
    assert "scalar gamma: 1.4" in text
    assert text.count("velocity_y") == 1
    columns = {line.split()[0]: line.split()[1:4] for line in text.splitlines() if line.startswith(("train", "test"))}
    assert columns == {"train": ["4", "20", "5"], "test": ["2", "10", "5"]}


def test_statistics_are_in_the_table_of_a_prepared_dataset(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(prepared(tiny), capsys)
    assert "std of change" in text
    assert "webdataset, none: 3 objects" in text


def test_steps_that_differ_are_a_range(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tiny / "data" / "train" / "c.hdf5", num_steps=9, fields=FIELDS, scalars={"gamma": 1.4})
    assert "5 to 9" in shown(tiny, capsys)


def test_uneven_grids_and_one_sided_boundaries_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low = TinyBoundary("wall", ("y",), "WALL", np.arange(6) == 0)

    def edit(file: object) -> None:
        file["dimensions/y"][...] = [0, 1, 3, 6, 10, 15]

    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", boundaries=(low,), edit=edit)
    assert "y: 6 points from 0 to 15, unevenly spaced, wall | open" in shown(tmp_path / "tiny", capsys)


def test_warnings_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", fields=(TinyField("pressure", dtype="f8"),))
    assert "\n! " in shown(tmp_path / "tiny", capsys)


@pytest.mark.parametrize("is_prepared", [False, True], ids=["source", "prepared"])
def test_the_picture_is_a_png(tiny: Path, is_prepared: bool, capsys: pytest.CaptureFixture[str]) -> None:
    target = tiny.with_name("pictures") / "tiny.png"
    shown(prepared(tiny) if is_prepared else tiny, capsys, "--picture", str(target))
    assert target.read_bytes().startswith(PNG)


def test_a_volume_has_a_picture_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(
        tmp_path / "tiny" / "data" / "train" / "a.hdf5", axes={"x": 3, "y": 4, "z": 5}, boundaries=(), num_steps=1
    )
    shown(tmp_path / "tiny", capsys, "--picture", str(tmp_path / "tiny.png"))
    assert (tmp_path / "tiny.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("place", "message"), [("file/x.png", "is a file; give another"), ("", "is a folder; give")])
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, place: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["show", str(tmp_path / "nothing"), "--picture", str(tmp_path / place)]) == 2
    assert message in capsys.readouterr().err


def test_a_picture_that_fails_to_be_written_is_one_message(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here; refusals before the work are covered above")
    assert main(["show", str(tiny), "--picture", str(full)]) == 1
    assert "failed: /dev/full: could not be written ([Errno 28]" in capsys.readouterr().err


def statistics_of(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, dict[str, object]], str]:
    capsys.readouterr()
    assert main(["statistics", str(path)]) == 0
    captured = capsys.readouterr()
    return yaml.safe_load(captured.out), captured.err


def test_statistics_have_the_form_of_the_wells(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = statistics_of(tiny, capsys)
    assert list(found) == ["mean", "std", "rms", "mean_delta", "std_delta", "rms_delta"]
    assert list(found["mean"]) == ["pressure", "velocity", "depth"]
    assert list(found["mean_delta"]) == ["pressure", "velocity"]
    assert np.shape(found["std"]["velocity"]) == (2,)


def test_a_tensor_has_a_list_of_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", fields=(TinyField("stress", rank=2),))
    found, _ = statistics_of(tmp_path / "tiny", capsys)
    assert np.shape(found["mean"]["stress"]) == (2, 2)


def test_source_and_prepared_dataset_have_the_same_statistics(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert statistics_of(prepared(tiny), capsys)[0] == statistics_of(tiny, capsys)[0]


def ship(tiny: Path, found: dict[str, dict[str, object]]) -> None:
    (tiny / "stats.yaml").write_text(yaml.safe_dump(found))


def test_shipped_statistics_that_agree_pass_silently(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = statistics_of(tiny, capsys)
    found["std"]["pressure"] *= 1.0005
    ship(tiny, found)
    assert statistics_of(tiny, capsys)[1] == ""


@pytest.mark.parametrize(
    ("key", "field", "value", "message"),
    [
        ("std_delta", "pressure", 99.0, "std_delta of `pressure` is 99.0, but the train split has 1."),
        ("mean", "velocity", [0.0], "mean of `velocity` is [0.0], but the train split has ["),
        ("mean", "pressure", "high", "mean of `pressure` is high, which is no number"),
        ("rms", "pressure", None, "rms of `pressure` is missing"),
    ],
)
def test_shipped_statistics_that_disagree_are_reported(
    tiny: Path, key: str, field: str, value: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = statistics_of(tiny, capsys)
    found[key][field] = value
    ship(tiny, found)
    _, warnings = statistics_of(tiny, capsys)
    assert len(warnings.splitlines()) == 1
    assert message in warnings


@pytest.mark.parametrize("text", ["[1, 2]", "{", "!!python/object/apply:os.system ['true']"])
def test_a_shipped_file_that_makes_no_sense_is_reported(
    tiny: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "stats.yaml").write_text(text)
    assert "was not compared" in statistics_of(tiny, capsys)[1]


def test_converting_reports_shipped_statistics_too(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = statistics_of(tiny, capsys)
    found["rms"]["depth"] = 7.0
    ship(tiny, found)
    prepared(tiny)
    assert "rms of `depth` is 7.0" in capsys.readouterr().err
