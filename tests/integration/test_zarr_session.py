"""A plain zarr session, without our code, reads what we wrote; and zarr would have written the same bytes."""

import math
import shutil
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from data_prep.__main__ import main
from data_prep.contract.checksum import checksum
from data_prep.contract.manifest import Codec, load_manifest
from data_prep.contract.sample import encode_frame
from data_prep.contract.storage import Storage
from tests.unit.tiny_well import TinyField, write_dataset, write_file

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
FORCING = np.array([0.0, 1.0, 4.0, 9.0, 16.0])


CUTS: dict[str, tuple[str, ...]] = {"whole frames": (), "tiles": ("--tile-bytes", "100")}
CASES = {f"{codec}, {name}": ("--codec", codec, *cut) for codec in get_args(Codec) for name, cut in CUTS.items()}


@pytest.fixture(params=CASES.values(), ids=CASES, scope="module")
def session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[zarr.Group, dict[str, np.ndarray], Path]:
    """(the opened group, frames by trajectory name, the folder), shards of two trajectories."""
    tmp_path = tmp_path_factory.mktemp("session")
    expected = write_dataset(tmp_path / "tiny", fields=FIELDS, scalars={"gamma": 1.4, "forcing": FORCING})
    options = (*request.param, "--shard-bytes", "3K")
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr", *options]) == 0
    frames = {f"{path}#{n}": run for path, file in expected.items() for n, run in enumerate(file.frames)}
    frames |= {f"{path}#{n} constants": run for path, file in expected.items() for n, run in enumerate(file.constants)}
    return zarr.open_group(tmp_path / "out", mode="r"), frames, tmp_path / "out"


Session = tuple[zarr.Group, dict[str, np.ndarray], Path]


def test_fields_are_one_array_of_all_trajectories(session: Session) -> None:
    group, frames, _ = session
    for split in ("train", "valid", "test"):
        fields = group[split]["fields"][:]
        for number, name in enumerate(group[split].attrs["trajectories"]):
            np.testing.assert_array_equal(fields[number].view(np.uint32), frames[name].view(np.uint32))


def test_constants_are_an_array_of_their_own(session: Session) -> None:
    group, frames, _ = session
    constants = group["train"]["constant_fields"][:]
    for number, name in enumerate(group["train"].attrs["trajectories"]):
        np.testing.assert_array_equal(constants[number], frames[f"{name} constants"])


def test_a_group_explains_itself(session: Session) -> None:
    train = session[0]["train"]
    assert train.attrs["channels"] == ["pressure", "velocity_x", "velocity_y"]
    assert train.attrs["boundaries"] == [["periodic", "periodic"], ["periodic", "periodic"]]
    assert train["fields"].metadata.dimension_names == ("trajectory", "time", "channel", "x", "y")
    np.testing.assert_allclose(train["x"][:], np.linspace(0, 1, 4), rtol=1e-6)
    np.testing.assert_allclose(train["times"][:], np.tile(np.arange(5) * 0.1, (4, 1)), rtol=1e-6)
    np.testing.assert_array_equal(train["scalar_gamma"][:], [1.4] * 4)
    np.testing.assert_array_equal(train["scalar_forcing"][:], [FORCING] * 4)


def test_one_request_brings_all_metadata(session: Session) -> None:
    consolidated = session[0].metadata.consolidated_metadata
    assert consolidated is not None
    assert "train/fields" in consolidated.metadata or "train" in consolidated.metadata


def test_zarr_checks_the_chunks(session: Session, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(session[2], tmp_path / "damaged"))
    manifest, index = load_manifest(Storage(str(folder)))
    shard = folder / manifest.shards[0].path
    data = bytearray(shard.read_bytes())
    data[int(index[0]["offset"]) + 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="checksum do not match"):
        zarr.open_group(folder, mode="r")["train"]["fields"][0, 0]


def test_steps_beyond_the_end_of_a_trajectory_are_nan(tmp_path: Path) -> None:
    write_file(tmp_path / "tiny" / "data" / "train" / "a.hdf5", num_steps=3)
    long = write_file(tmp_path / "tiny" / "data" / "train" / "b.hdf5", num_steps=5)
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr"]) == 0
    train = zarr.open_group(tmp_path / "out", mode="r")["train"]
    assert np.isnan(train["fields"][0, 3:]).all()
    assert np.isfinite(train["fields"][0, :3]).all()
    assert train["num_steps"][:].tolist() == [3, 3, 5, 5]
    assert np.isnan(train["times"][0, 3:]).all()
    np.testing.assert_array_equal(train["fields"][3], long.frames[1])


@pytest.mark.parametrize(("codec", "level"), [("lz4", 5), ("zstd", 3)])
def test_zarr_itself_would_write_the_same_chunk(codec: Literal["lz4", "zstd"], level: int) -> None:
    frame = np.random.default_rng(0).standard_normal((3, 40, 50)).astype(np.float32)
    store = MemoryStore()
    compressor = BloscCodec(typesize=4, cname=codec, clevel=level, shuffle="shuffle")
    array = zarr.create_array(
        store, shape=frame.shape, chunks=frame.shape, dtype="float32", compressors=[compressor, Crc32cCodec()]
    )
    array[:] = frame
    payload = encode_frame(frame, "blosc-lz4" if codec == "lz4" else "blosc-zstd")
    assert store._store_dict["c/0/0/0"].to_bytes() == payload + checksum(payload).to_bytes(4, "little")


def chunks_of(shard: bytes, num_chunks: int) -> list[bytes]:
    """In the order of the shard's own index; zarr is free to store them in another."""
    table = np.frombuffer(shard[-16 * num_chunks - 4 : -4], "<u8").reshape(num_chunks, 2).tolist()
    return [shard[offset : offset + length] for offset, length in table]


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_zarr_itself_would_write_the_same_chunks_in_a_shard(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Beyond the edge of an axis that tiles do not divide too."""
    path, axes = tmp_path / "tiny" / "data" / "train" / "a.hdf5", {"x": 5, "y": 6}
    expected = write_file(path, num_trajectories=3, num_steps=4, axes=axes)
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr", *options]) == 0
    ours = zarr.open_group(tmp_path / "out", mode="r")["train"]["fields"]
    store = MemoryStore()
    array = zarr.create_array(
        store,
        shape=ours.shape,
        chunks=ours.chunks,
        shards=ours.shards,
        dtype="float32",
        fill_value=float("nan"),
        compressors=ours.compressors,
    )
    array[:] = np.stack(expected.frames)
    (path,) = [path for path in store._store_dict if path.startswith("c/")]
    written = (tmp_path / "out" / "train" / "fields" / path).read_bytes()
    num_chunks = math.prod(ours.shards) // math.prod(ours.chunks)
    assert num_chunks == (12 if ours.chunks[3:] == (5, 6) else 72)
    assert chunks_of(store._store_dict[path].to_bytes(), num_chunks) == chunks_of(written, num_chunks)
