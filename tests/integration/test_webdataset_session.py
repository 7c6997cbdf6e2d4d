"""A plain webdataset pipeline, without our code, reads what the converter wrote."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from tests.integration.plain_webdataset import samples_of
from tests.unit.tiny_well import TinyField, write_dataset

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
FORCING = np.array([0.0, 1.0, 4.0, 9.0, 16.0])


@pytest.mark.parametrize("shard_bytes", ["256M", "800"], ids=["whole trajectories", "two frames to a shard"])
def test_samples_are_stretches_of_trajectories(tmp_path: Path, shard_bytes: str) -> None:
    expected = write_dataset(tmp_path / "tiny", fields=FIELDS)
    options = ("--format", "webdataset", "--shard-bytes", shard_bytes)
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), *options]) == 0
    seen: dict[str, list[int]] = {}
    for sample in samples_of(tmp_path / "out"):
        facts, fields = sample["json"], sample["fields.npy"]
        path, _, number = facts["trajectory"].rpartition("#")
        original = expected[path]
        first = facts["first_frame"]
        np.testing.assert_array_equal(fields, original.frames[int(number)][first : first + len(fields)])
        np.testing.assert_array_equal(sample["constants.npy"], original.constants[int(number)])
        seen.setdefault(facts["trajectory"], []).extend(range(first, first + len(fields)))
    assert seen == {f"{path}#{number}": list(range(5)) for path in expected for number in (0, 1)}


def test_a_sample_explains_itself(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny", fields=FIELDS, scalars={"gamma": 1.4, "forcing": FORCING})
    options = ("--format", "webdataset", "--shard-bytes", "800")
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), *options]) == 0
    facts = next(s["json"] for s in samples_of(tmp_path / "out") if s["json"]["first_frame"] == 3)
    assert facts["channels"] == ["pressure", "velocity_x", "velocity_y"]
    assert facts["constant_channels"] == ["depth"]
    assert facts["boundaries"] == [["periodic", "periodic"], ["periodic", "periodic"]]
    assert facts["scalars"] == {"gamma": 1.4, "forcing": [9.0, 16.0]}
    assert facts["times"] == pytest.approx([0.3, 0.4])


def test_shards_are_named_by_split_and_number(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny")
    options = ("--format", "webdataset", "--shard-bytes", "3K")
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), *options]) == 0
    names = [path.name for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert names == ["test-000000.tar", "train-000000.tar", "train-000001.tar", "valid-000000.tar"]


def test_members_tell_nothing_of_time_or_machine(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny")
    assert main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "webdataset"]) == 0
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        facts = {(member.mtime, member.uname, member.gname, member.uid) for member in tar}
    assert facts == {(0, "", "", 0)}
