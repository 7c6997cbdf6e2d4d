"""Our storage, converter and reader against a real S3 server, which checks signatures and permissions."""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.errors import CutShortError, IntegrityError, NotFoundError, RefusedError, StorageError
from data_prep.contract.remote import RemoteFolder
from data_prep.contract.s3_ranges import S3Ranges
from data_prep.contract.storage import Retries, Storage
from tests.integration.s3_server import S3Server
from tests.unit.tiny_well import write_dataset
from trainer.data.dataset import open_dataset
from trainer.data.ring import Scratch
from trainer.data.source import Source
from trainer.data.windows import Window

ONCE = Retries(attempts=1)


@pytest.fixture
def bucket(s3: S3Server) -> Storage:
    return Storage(s3.make_bucket())


def test_objects_come_and_go(bucket: Storage) -> None:
    for path in ("a/b", "a/c/d", "e"):
        bucket.put(path, b"hello")
    assert bucket.list() == ("a/b", "a/c/d", "e")
    assert bucket.list("a") == ("a/b", "a/c/d")
    assert bucket.get("e", max_bytes=5) == b"hello"
    assert bucket.get_range("e", offset=1, length=2) == b"el"
    before = bucket.fingerprint("e")
    bucket.put("e", b"world")
    assert bucket.fingerprint("e") != before
    bucket.delete("e")
    bucket.delete("e")
    bucket.delete_folder("a")
    assert bucket.list() == ()
    assert not bucket.exists("e")


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_an_object_of_several_uploads_comes_back_whole(bucket: Storage, kind: Callable[[bytes], bytearray]) -> None:
    """Above 100 MB the client cuts an upload into parts."""
    data = np.random.default_rng(0).bytes(101 * 10**6)
    bucket.put("large", kind(data))
    assert bucket.get("large", max_bytes=len(data)) == data


def test_what_is_missing_or_too_short_is_named(bucket: Storage) -> None:
    bucket.put("a", b"hello")
    with pytest.raises(NotFoundError, match=f"{bucket.url}/b: no such object"):
        bucket.get("b", max_bytes=9)
    with pytest.raises(IntegrityError, match=r"bytes 3 to 9 of s3://.*/a: only 2 bytes came"):
        bucket.get_range("a", offset=3, length=6)
    with pytest.raises(CutShortError, match=r"bytes 5 to 7 of s3://.*/a: only 0 bytes came; the object is shorter"):
        bucket.read_into("a", memoryview(bytearray(2)), offset=5)
    with pytest.raises(NotFoundError):
        bucket.read_into("b", memoryview(bytearray(2)), offset=5)


def test_an_object_that_is_missing_does_not_slow_down_the_others(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What s3fs cannot read either says nothing against obstore, which goes on to serve the rest."""
    pytest.importorskip("obstore", reason="obstore is an extra; s3fs serves without it")
    bucket.put("a", b"hello")
    out = bytearray(5)
    with pytest.raises(NotFoundError):
        bucket.read_into("b", memoryview(out), offset=0)
    monkeypatch.delattr(RemoteFolder, "_stream")  # what s3fs would have to do
    bucket.read_into("a", memoryview(out), offset=0)
    assert out == b"hello"


def test_what_s3fs_reads_and_obstore_does_not_is_left_to_it_and_said_once(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("obstore", reason="obstore is an extra; s3fs serves without it")
    bucket.put("a", b"hello")
    monkeypatch.setattr(S3Ranges, "_fill", refuse)
    for _ in range(2):
        out = bytearray(5)
        bucket.read_into("a", memoryview(out), offset=0)
        assert out == b"hello"
    assert capsys.readouterr().err.count("obstore fails (no such region (no details)); s3fs reads on") == 1


def refuse(*_: object) -> None:
    raise importlib.import_module("obstore.exceptions").GenericError("no such region")


def test_a_bucket_that_does_not_exist_is_named(s3: S3Server) -> None:
    with pytest.raises((RefusedError, StorageError), match="s3://no-such-bucket-of-ours/x"):
        Storage("s3://no-such-bucket-of-ours", ONCE).put("x", b"hello")


def test_wrong_credentials_are_refused_by_name(bucket: Storage, other_credentials: None) -> None:
    with pytest.raises(RefusedError, match=f"{bucket.url}/x: access is denied .* check credentials"):
        Storage(bucket.url).put("x", b"hello")


@pytest.mark.parametrize("layout", ["zarr", "webdataset"])
def test_a_dataset_on_s3_is_the_one_on_a_disk(
    bucket: Storage, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = write_dataset(tmp_path / "tiny")
    for destination in (bucket.url, str(tmp_path / "out")):
        assert main(["convert", str(tmp_path / "tiny"), destination, "--format", layout, "--shard-bytes", "2K"]) == 0
    assert main(["verify", bucket.url, "--against", str(tmp_path / "tiny")]) == 0, capsys.readouterr().err
    local = Storage(str(tmp_path / "out"))
    assert contents(bucket) == contents(local)
    dataset = open_dataset(bucket.url)
    out = np.empty(dataset.window_shape(3), np.float32)
    Source(dataset, frames=3).read(Window(3, 1), out=out, scratch=Scratch())
    np.testing.assert_array_equal(out, expected["train/b.hdf5"].frames[1][1:4])


def contents(storage: Storage) -> dict[str, bytes]:
    return {path: storage.get(path, max_bytes=2**30) for path in storage.list()}
