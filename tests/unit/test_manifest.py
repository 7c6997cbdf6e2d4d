"""The manifest is checked key by key, before anything of it is used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.manifest import load_manifest, save_manifest
from data_prep.contract.storage import Storage
from tests.unit.tiny_manifest import make_index, make_manifest, rewrite, saved


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return saved(tmp_path)


def test_what_is_saved_is_loaded(storage: Storage) -> None:
    manifest, index = load_manifest(storage)
    assert manifest == make_manifest(make_index())
    np.testing.assert_array_equal(index, make_index())


def test_a_folder_without_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"has no manifest\.json, so it is no prepared dataset"):
        load_manifest(Storage(str(tmp_path)))


def set_key(*path: Any, to: object) -> Any:
    def change(stored: Any) -> None:
        for key in path[:-1]:
            stored = stored[key]
        stored[path[-1]] = to

    return change


def refer(url: str = "/corpora/tiny", kept: dict[str, list[bool]] | None = None) -> Any:
    def change(stored: Any) -> None:
        stored.update(layout="reference", reference={"url": url, "kept": kept or {}})
        stored["shards"][0]["path"] = "data/train/a.hdf5"

    return change


def in_tars(stored: Any) -> None:
    stored.update(layout="webdataset")
    stored["shards"][0]["path"] = "train-000000.tar"


ROUNDING = {"kept_bits": 9, "vrmse": 0.1, "vrmse_delta": None}
MALFORMED = {
    "an unknown key": (set_key("colour", to="red"), "colour is no key of Manifest; its keys are"),
    "an unknown key inside": (
        set_key("dataset", "fields", 1, "units", to="m"),
        "dataset.fields.1.units is no key of Field; did you mean `unit`?",
    ),
    "a missing key": (lambda stored: stored.pop("codec"), "codec is missing; Manifest needs `codec`"),
    "another version": (set_key("version", to=2), "version is 2; expected 1"),
    "an unknown codec": (set_key("codec", to="zip"), "codec is \"zip\"; expected 'none', 'blosc-lz4' or 'blosc-zstd'"),
    "a text for a number": (set_key("shards", 0, "bytes", to="9"), 'shards.0.bytes is "9"; expected an integer'),
    "a negative size": (set_key("shards", 0, "bytes", to=-1), "shards.0.bytes"),
    "a path that leaves": (set_key("shards", 0, "path", to="../secret"), "shards.0.path"),
    "an absolute path": (set_key("shards", 0, "path", to="/etc/passwd"), "shards.0.path"),
    "a hidden path": (set_key("index", "path", to=".ssh/id"), "index.path"),
    "a name that is a path": (set_key("dataset", "name", to="../up"), "dataset.name"),
    "an unknown split": (set_key("trajectories", 0, "split", to="dev"), "trajectories.0.split"),
    "times too few": (
        set_key("trajectories", 0, "times", to=[0.0]),
        "trajectories.0: train/a.hdf5#0: 1 times, but num_steps is 2",
    ),
    "not a number": (set_key("trajectories", 0, "times", to=[0.0, float("nan")]), "trajectories.0.times.1"),
    "records with a gap": (
        set_key("trajectories", 1, "first_record", to=4),
        "trajectories.1.first_record is 4, expected 3",
    ),
    "a negative spread": (
        set_key("statistics", "depth", "std", to=-1.0),
        "statistics.depth.std is -1.0; expected greater than or equal to 0",
    ),
    "statistics missing": (lambda stored: stored["statistics"].pop("depth"), "statistics are of"),
    "a frame too large": (
        lambda stored: stored["dataset"].update(resolution=[2**20, 2**20], coordinates=[[0.0], [0.0]]),
        "coordinates have (1, 1) points",
    ),
    "a tile of another dimension": (set_key("tile", to=[1]), "tile is (1,), expected a part of (2, 3)"),
    "a tile larger than space": (set_key("tile", to=[2, 4]), "tile is (2, 4), expected a part of (2, 3)"),
    "a tile of no points": (set_key("tile", to=[0, 3]), "tile.0"),
    "tiles in a tar": (
        lambda stored: (in_tars(stored), stored.update(tile=[1, 3])),
        "only the layout zarr has tiles",
    ),
    "tiles without number": (
        lambda stored: (
            stored["dataset"].update(resolution=[1024, 1024], coordinates=[list(range(1024))] * 2)
            or stored.update(tile=[1, 1])
        ),
        "cut (1024, 1024) into more than 65536 parts",
    ),
    "a frame beyond all memory": (
        lambda stored: (
            stored["dataset"].update(resolution=[2**17, 2**17], coordinates=[[0.0] * 2**17] * 2)
            or stored.update(tile=[1, 1])
        ),
        f"a frame of (3, 131072, 131072) is larger than {2**36} bytes",
    ),
    "a tile too large for a record": (
        lambda stored: stored["dataset"].update(resolution=[2**14, 2**14], coordinates=[[0.0] * 2**14] * 2),
        "has a part of more than 2147483631 bytes",
    ),
    "tiles that the rows do not fit": (set_key("tile", to=[1, 3]), "trajectories.1.first_record is 3, expected 6"),
    "a reference in another layout": (
        set_key("reference", to={"url": "/corpora/tiny", "kept": {}}),
        "layout is zarr, but reference is given",
    ),
    "a reference without its source": (
        lambda stored: (refer()(stored), stored.pop("reference")),
        "layout is reference, but reference is missing",
    ),
    "tars named like arrays": (
        set_key("layout", to="webdataset"),
        "layout is webdataset, but `train/fields/c/0` among its shards can be none of that layout",
    ),
    "arrays named like tars": (
        lambda stored: (in_tars(stored), stored.update(layout="zarr")),
        "layout is zarr, but `train-000000.tar` among its shards can be none",
    ),
    "tars that are encoded": (
        lambda stored: (in_tars(stored), stored.update(codec="blosc-lz4")),
        "codec is blosc-lz4, but tars hold plain arrays",
    ),
    "no shards": (set_key("shards", to=[]), "shards is []; expected 1 or more entries"),
    "no trajectories": (set_key("trajectories", to=[]), "trajectories is []; expected 1 or more entries"),
    "an index of another name": (set_key("index", "path", to="train/fields/c/0"), "expected index.npy"),
    "times that go back": (
        set_key("trajectories", 0, "times", to=[0.1, 0.0]),
        "train/a.hdf5#0: time of frame 1 is 0.0, expected one after 0.1",
    ),
    "times that stand still": (set_key("trajectories", 1, "times", to=[0.1, 0.1]), "time of frame 1 is 0.1, expected"),
    "a side that is periodic": (
        set_key("dataset", "boundaries", 0, to=["periodic", "wall"]),
        "dataset: boundaries of x are periodic and wall; expected periodic at both or none",
    ),
    "two trajectories of one name": (
        set_key("trajectories", 1, "source", to="train/a.hdf5#0"),
        "trajectories.1.source is train/a.hdf5#0, as is that of trajectories.0",
    ),
    "a name that moves the cursor": (
        set_key("trajectories", 1, "source", to="a\x1b[2J"),
        "expected a path on one line",
    ),
    "scalars of another name": (
        set_key("trajectories", 1, "scalars", to={"nu": 1.0}),
        "trajectories.1.scalars are ['nu'], but those of the dataset are ['forcing', 'gamma']",
    ),
    "a scalar of another length": (
        set_key("trajectories", 1, "scalars", "forcing", to=[0.1]),
        "train/a.hdf5#1: 1 values of forcing, but num_steps is 2",
    ),
    "a reference to a place that depends on us": (
        refer(url="corpora/tiny"),
        "expected an absolute path or a URL on one line",
    ),
    "a reference to no text": (refer(url="/corpora\x00/tiny"), "expected an absolute path or a URL on one line"),
    "a reference that keeps axes of no field": (
        refer(kept={"heat": [True, True]}),
        "reference.kept has (True, True) for heat",
    ),
    "a reference that keeps too few axes": (
        refer(kept={"pressure": [True]}),
        "reference.kept has (True,) for pressure",
    ),
    "a reference that is encoded": (
        lambda stored: (refer()(stored), stored.update(codec="blosc-lz4")),
        "neither encoded nor rounded",
    ),
    "rounding of no channel": (
        set_key("rounding", to={"velocity": ROUNDING}),
        "rounding is of ['velocity'], but channels are",
    ),
    "rounding to all bits": (
        set_key("rounding", to={"pressure": ROUNDING | {"kept_bits": 23}}),
        "rounding.pressure.kept_bits",
    ),
    "rounding to none": (set_key("rounding", to={"pressure": ROUNDING | {"kept_bits": 0}}), "kept_bits"),
    "rounding that gains": (
        set_key("rounding", to={"pressure": ROUNDING | {"vrmse": -1.0}}),
        "rounding.pressure.vrmse",
    ),
    "an axis too few": (set_key("dataset", "boundaries", to=[["wall", "wall"]]), "boundaries has 1 axes"),
    "a shard beyond all bounds": (set_key("shards", 0, "bytes", to=2**70), "shards.0.bytes"),
    "a shard twice": (lambda stored: stored["shards"].append(stored["shards"][0]), "two shards have the same path"),
}


@pytest.mark.parametrize(("change", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_manifest_is_refused_by_file_and_key(storage: Storage, change: Any, message: str) -> None:
    rewrite(storage, change)
    with pytest.raises(RefusedError) as refused:
        load_manifest(storage)
    assert f"{storage.url}/manifest.json: " in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(storage: Storage, text: bytes) -> None:
    storage.put("manifest.json", text)
    with pytest.raises(
        RefusedError, match=r"manifest\.json: (is no JSON|the file is \[\]).*; copy the dataset again .* or convert"
    ):
        load_manifest(storage)


def test_a_message_names_only_the_first_few_faults(storage: Storage) -> None:
    rewrite(storage, lambda stored: stored.update({f"key{number}": 1 for number in range(50)}))
    with pytest.raises(RefusedError) as refused:
        load_manifest(storage)
    assert len(str(refused.value).splitlines()) == 6
    assert "and 45 more" in str(refused.value)


def test_the_manifest_is_written_after_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(Storage, "put", lambda self, path, data: written.append(path))
    save_manifest(Storage(str(tmp_path)), make_manifest(make_index()), make_index())
    assert written == ["index.npy", "manifest.json"]
