"""Snapshots that were damaged, or made to do harm, are refused before anything is allocated or executed."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.saved_runs import save_run
from trainer.errors import SnapshotError
from trainer.snapshot import open_snapshot, read_weights

SHARD = "rank-00000-00000.safetensors"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_run(tmp_path, 5)
    return tmp_path / "snapshots" / "step-00000005"


def rewrite(folder: Path, change: Change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def weight(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["entries"]["encoder.weight"]["weight"]
    return found


def scaled(**changes: Any) -> Change:
    """The run learnt from a dataset of two channels, but for `changes`."""
    record = {"name": "gas", "digest": 1, "channels": ["a", "b"], "is_target": [True, True], "boundary": []}
    numbers = {"scale": [1.0, 2.0], "shift": [0.0, 0.0]}
    return lambda manifest: manifest["about"].update(datasets=[{**record, **numbers, **changes}])


HOSTILE: dict[str, Change] = {
    "a path that leaves the folder": lambda m: m["files"][0].update(path="../../secret.safetensors"),
    "an absolute path": lambda m: m["files"][0].update(path="/etc/passwd"),
    "a file that is no safetensors": lambda m: m["files"][0].update(path="weights.pt"),
    "a file larger than it is": lambda m: m["files"][0].update(bytes=10**15),
    "a tensor larger than its file": lambda m: weight(m).update(shape=[2**50], bytes=2**52),
    "a size that is not the shape's": lambda m: weight(m).update(bytes=10**12),
    "a tensor behind the end": lambda m: weight(m).update(offset=10**9),
    "a negative offset": lambda m: weight(m).update(offset=-8),
    "a file number that does not exist": lambda m: weight(m).update(file=1),
    "a type that is no number": lambda m: weight(m).update(dtype="OBJECT"),
    "a shape of a thousand axes": lambda m: weight(m).update(shape=[1] * 1000),
    "an entry without a weight": lambda m: m["entries"]["encoder.weight"].pop("weight"),
    "an unknown key": lambda m: m.update(run_this="os.system"),
    "another version": lambda m: m.update(version=1),
    "another format": lambda m: m.update(format="pickle"),
    "a step that is no number": lambda m: m.update(step="5"),
    "two fields of one name": lambda m: m["about"].update(field_names=["density", "density"]),
    "a scale for one of two channels": scaled(scale=[1.0]),
    "a scale of nothing": scaled(scale=[1.0, 0.0]),
    "two channels of one name": scaled(channels=["a", "a"]),
    "a transform of a third channel": scaled(transforms=[{"channel": 2, "name": "c", "kind": "log", "unit": 1.0}]),
    "scales shared with a third channel": scaled(shared_scales=[[0, 3]]),
    "a missing file": lambda m: m["files"].append({"path": "rank-00001-00000.safetensors", "bytes": 8}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_lying_manifest_is_refused(folder: Path, name: str) -> None:
    rewrite(folder, HOSTILE[name])
    with pytest.raises(SnapshotError, match="step-00000005"):
        open_snapshot(str(folder))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\x00\xff", b'{"format": "wellspring snapshot"}'])
def test_what_is_no_manifest_is_refused(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        open_snapshot(str(folder))


def test_a_truncated_file_is_refused(folder: Path) -> None:
    os.truncate(folder / SHARD, 100)
    with pytest.raises(SnapshotError, match="has 100 bytes"):
        open_snapshot(str(folder))


def test_a_flipped_bit_is_refused(folder: Path) -> None:
    data = bytearray((folder / SHARD).read_bytes())
    data[-1] ^= 1
    (folder / SHARD).write_bytes(data)
    with pytest.raises(SnapshotError, match="crc32c"):
        read_weights(str(folder))


def test_two_tensors_exchanged_by_the_manifest_are_refused(folder: Path) -> None:
    def exchange(manifest: dict[str, Any]) -> None:
        states = manifest["entries"]["encoder.weight"]
        other = next(
            state for state in states if state != "weight" and states[state]["shape"] == states["weight"]["shape"]
        )
        states["weight"], states[other] = states[other], states["weight"]

    rewrite(folder, exchange)
    with pytest.raises(SnapshotError, match="elsewhere, or otherwise, than the manifest says"):
        read_weights(str(folder))


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a": 1}', b'{"a": {"data_offsets": []}}'])
def test_a_header_that_is_none_is_refused(folder: Path, header: bytes) -> None:
    data = (folder / SHARD).read_bytes()
    length = int.from_bytes(data[:8], "little")
    (folder / SHARD).write_bytes(data[:8] + header.ljust(length) + data[8 + length :])
    with pytest.raises(SnapshotError, match="is no safetensors file"):
        read_weights(str(folder))


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (os.mkdir, (str(self.place),))


def test_a_pickle_in_place_of_tensors_is_not_executed(folder: Path, tmp_path: Path) -> None:
    data = pickle.dumps(Bomb(tmp_path / "executed"))
    size = (folder / SHARD).stat().st_size
    (folder / SHARD).write_bytes(data.ljust(size, b"\0"))
    with pytest.raises(SnapshotError, match="is no safetensors file"):
        read_weights(str(folder))
    assert not (tmp_path / "executed").exists()


def test_an_intact_snapshot_is_read(folder: Path) -> None:
    """The damage above is what is refused, nothing else."""
    rewrite(folder, lambda manifest: None)
    assert "encoder.weight" in read_weights(str(folder))
    rewrite(folder, scaled(shared_scales=[[0, 2]]))
    assert open_snapshot(str(folder)).about.datasets[0].scale == (1.0, 2.0)


@pytest.mark.parametrize(
    ("change", "said"), [({"is_export": True}, "an export, weights alone"), ({"step": 4}, "of step 4")]
)
def test_a_run_does_not_go_on_from_what_is_no_snapshot_of_it(
    tmp_path: Path, folder: Path, change: dict[str, object], said: str
) -> None:
    rewrite(folder, lambda manifest: manifest.update(change))
    with pytest.raises(SnapshotError, match=rf"step-00000005 is {said}, and no snapshot of this run; remove"):
        save_run(tmp_path).latest()
