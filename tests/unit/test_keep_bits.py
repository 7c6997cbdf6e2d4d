"""Kept mantissa bits: the rounded source is stored, what it cost is in the manifest, and exact stays the default."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from data_prep.__main__ import main
from data_prep.contract.manifest import MANTISSA_BITS, Manifest, load_manifest
from data_prep.contract.storage import Storage
from data_prep.numbers.rounding import round_mantissa
from tests.benchmarks.test_codec_rates import turbulent_frame
from tests.unit.converting import SMALL, contents, convert, interrupted_after, stored_frames
from tests.unit.tiny_well import Expected, TinyField, write_dataset

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
BITS = {"pressure": 5, "velocity_x": 9, "velocity_y": 9}


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Path, dict[str, Expected]]:
    """(source, destination, what is in the source)."""
    return tmp_path / "tiny", tmp_path / "out", write_dataset(tmp_path / "tiny", fields=FIELDS)


def manifest_of(folder: Path) -> Manifest:
    return load_manifest(Storage(str(folder)))[0]


def rounded(frames: np.ndarray) -> np.ndarray:
    """(time, channel, x, y), by `BITS`."""
    result = frames.copy()
    for channel, bits in enumerate(BITS.values()):
        round_mantissa(result[:, channel], bits)
    return result


@pytest.mark.parametrize("options", [(), ("--tile-bytes", "50"), ("--codec", "blosc-zstd")])
def test_the_rounded_source_is_stored_and_verified(corpus: tuple, options: tuple[str, ...]) -> None:
    source, destination, expected = corpus
    assert convert(source, destination, "zarr", *SMALL, *options, "--keep-bits", "velocity=9,pressure=5") == 0
    frames = stored_frames(destination)
    for path, file in expected.items():
        for number, original in enumerate(file.frames):
            stored = frames[f"{path}#{number}"]
            assert (stored != original).any()
            np.testing.assert_array_equal(stored.view(np.uint32), rounded(original).view(np.uint32))
    assert main(["verify", str(destination), "--against", str(source)]) == 0


def test_a_plain_zarr_session_reads_the_rounded_values(corpus: tuple) -> None:
    source, destination, expected = corpus
    assert convert(source, destination, "zarr", "--keep-bits", "pressure=5,velocity=9") == 0
    train = zarr.open_group(destination, mode="r")["train"]
    assert train.attrs["kept_bits"] == {"pressure": 5, "velocity": 9}
    assert train["fields"].compressors[0].shuffle.value == "bitshuffle"
    for number, original in enumerate(expected["train/a.hdf5"].frames):
        np.testing.assert_array_equal(train["fields"][number], rounded(original))


def test_verify_finds_what_is_not_the_rounded_source(corpus: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    """A change that rounding does not undo is a difference; the smallest one there is, is not."""
    source, destination, _ = corpus
    assert convert(source, destination, "zarr", "--keep-bits", "10") == 0

    def nudge(factor: float) -> int:
        def edit(file: object) -> None:
            file["t0_fields/pressure"][0, 1, 2, 3] *= factor

        write_dataset(source, fields=FIELDS, edit=edit)
        return main(["verify", str(destination), "--against", str(source)])

    # not for every value, but for these four
    assert nudge(1 + 2.0**-23) == 0
    assert nudge(1 + 2.0**-8) == 1
    assert "1 values differ from the source, the first in `pressure` at (2, 3)" in capsys.readouterr().err


def test_the_cost_is_in_the_manifest_by_channel(corpus: tuple) -> None:
    source, destination, expected = corpus
    assert convert(source, destination, "zarr", *SMALL, "--keep-bits", "pressure=5,velocity=9") == 0
    rounding = manifest_of(destination).rounding
    assert rounding is not None
    runs = [run.astype(np.float64) for file in expected.values() for run in file.frames]
    stored = [rounded(run).astype(np.float64) for file in expected.values() for run in file.frames]
    for number, (name, bits) in enumerate(BITS.items()):
        pairs = [(one[:, number], other[:, number]) for one, other in zip(runs, stored, strict=True)]
        changes = [(np.diff(one, axis=0), np.diff(other, axis=0)) for one, other in pairs]
        assert rounding[name].kept_bits == bits
        assert rounding[name].vrmse == pytest.approx(vrmse(pairs), rel=1e-9)
        assert rounding[name].vrmse_delta == pytest.approx(vrmse(changes), rel=1e-9)
    assert set(rounding) == set(BITS)


def vrmse(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """(time, x, y) of every trajectory."""
    error = sum(np.square(other - one).sum() for one, other in pairs)
    spread = sum(np.square(one - one.mean(axis=(1, 2), keepdims=True)).sum() for one, _ in pairs)
    return float(np.sqrt(error / spread))


def test_the_cost_does_not_depend_on_the_cut_into_shards(corpus: tuple, tmp_path: Path) -> None:
    source, destination, _ = corpus
    convert(source, destination, "zarr", "--keep-bits", "6")
    convert(source, tmp_path / "small", "zarr", "--keep-bits", "6", "--shard-bytes", "300")
    whole, parts = manifest_of(destination).rounding, manifest_of(tmp_path / "small").rounding
    assert whole is not None
    assert parts is not None
    for name, cost in whole.items():
        assert parts[name].vrmse == pytest.approx(cost.vrmse, rel=1e-12)
        assert parts[name].vrmse_delta == pytest.approx(cost.vrmse_delta, rel=1e-12)


def test_a_stopped_conversion_ends_with_the_same_bytes(corpus: tuple, tmp_path: Path) -> None:
    source, destination, _ = corpus
    command = ("zarr", *SMALL, "--keep-bits", "6")
    assert convert(source, tmp_path / "whole", *command) == 0
    with interrupted_after(7):
        assert convert(source, destination, *command) == 130
    assert convert(source, destination, *command) == 0
    assert contents(destination) == contents(tmp_path / "whole")


def test_one_number_is_for_all_fields_that_change_and_constants_stay_exact(corpus: tuple) -> None:
    source, destination, _ = corpus
    convert(source, destination, "zarr", "--keep-bits", "7")
    assert manifest_of(destination).kept_fields == {"pressure": 7, "velocity": 7}


def test_constants_are_rounded_where_they_are_named(corpus: tuple) -> None:
    source, destination, expected = corpus
    convert(source, destination, "zarr", "--keep-bits", "depth=3")
    stored = zarr.open_group(destination, mode="r")["train"]["constant_fields"][0]
    original = expected["train/a.hdf5"].constants[0].copy()
    round_mantissa(original, 3)
    np.testing.assert_array_equal(stored, original)
    rounding = manifest_of(destination).rounding
    assert rounding is not None
    assert rounding["depth"].vrmse_delta is None
    assert main(["verify", str(destination), "--against", str(source)]) == 0


def test_without_the_option_all_is_exact_and_no_key_says_so(corpus: tuple) -> None:
    source, destination, _ = corpus
    convert(source, destination, "zarr")
    assert b'"rounding"' not in (destination / "manifest.json").read_bytes()
    assert manifest_of(destination).kept_bits == ((MANTISSA_BITS,) * 3, (MANTISSA_BITS,))


def test_a_rounded_dataset_keeps_what_is_known_of_its_rounding(
    corpus: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, destination, _ = corpus
    convert(source, destination, "zarr", "--keep-bits", "pressure=5,velocity=9")
    assert convert(destination, tmp_path / "tars", "webdataset") == 0
    assert manifest_of(tmp_path / "tars").rounding == manifest_of(destination).rounding
    assert main(["verify", str(tmp_path / "tars"), "--against", str(source)]) == 0
    assert convert(destination, tmp_path / "again", "zarr", "--keep-bits", "4") == 2
    assert "is rounded already (pressure=5,velocity=9); convert its own source" in capsys.readouterr().err


def test_a_conversion_with_other_bits_is_another(corpus: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    source, destination, _ = corpus
    convert(source, destination, "zarr", "--keep-bits", "9")
    assert convert(source, destination, "zarr", "--keep-bits", "9") == 0
    assert convert(source, destination, "zarr", "--keep-bits", "8") == 2
    assert "is of another conversion (`rounding` differs)" in capsys.readouterr().err


def test_show_says_what_it_cost(corpus: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    source, destination, _ = corpus
    convert(source, destination, "zarr", "--keep-bits", "pressure=5")
    capsys.readouterr()
    assert main(["show", str(destination)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (header,) = [line for line in lines if line.startswith("channel ")]
    assert header.split()[-5:] == ["kept", "bits", "VRMSE", "of", "change"]
    cost = (manifest_of(destination).rounding or {})["pressure"]
    (pressure,) = [line for line in lines if line.startswith("pressure ")]
    assert pressure.split()[-3:] == ["5", f"{cost.vrmse:.2g}", f"{cost.vrmse_delta:.2g}"]
    (velocity,) = [line for line in lines if line.startswith("velocity_x ")]
    assert velocity.split()[-1] == "exact"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keep-bits", "0"), "give a number from 1 to 22"),
        (("--keep-bits", "23"), "give a number from 1 to 22"),
        (("--keep-bits", "ten"), "give a number from 1 to 22"),
        (("--keep-bits", "pressure=5,7"), "or FIELD=NUMBER with commas between"),
        (("--keep-bits", "=5"), "or FIELD=NUMBER with commas between"),
        (("--keep-bits", "pressure=5,pressure=6"), "names a field twice"),
        (("--keep-bits", "temperature=5"), "tiny has no such field; it has ['pressure', 'velocity', 'depth']"),
        (("--keep-bits", "5", "--codec", "none"), "no smaller without compression"),
        (("--keep-bits", "5", "--format", "webdataset"), "no smaller without compression"),
    ],
)
def test_what_makes_no_sense_is_refused(
    corpus: tuple, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    source, destination, _ = corpus
    try:
        code = convert(source, destination, "zarr", *options)
    except SystemExit as error:  # argparse's own way
        code = int(str(error.code))
    assert code == 2
    assert message in capsys.readouterr().err
    assert not destination.exists()


def test_ten_bits_store_half_of_what_exact_values_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def turbulence(file: object) -> None:
        for step in range(2):
            file["t0_fields/pressure"][0, step] = turbulent_frame(64, seed=step)[0]

    source = tmp_path / "tiny"
    write_dataset(
        source,
        fields=(TinyField("pressure"),),
        num_trajectories=1,
        num_steps=2,
        axes={"x": 64, "y": 64},
        boundaries=(),
        edit=turbulence,
    )
    sizes = {}
    for name, options in (("exact", ()), ("rounded", ("--keep-bits", "10"))):
        assert convert(source, tmp_path / name, "zarr", *options) == 0
        manifest = manifest_of(tmp_path / name)
        sizes[name] = sum(shard.bytes for shard in manifest.shards if "/fields/c/" in shard.path)
    assert sizes["rounded"] < 0.55 * sizes["exact"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept_bits"] == {"pressure": 10}
