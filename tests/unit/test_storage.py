"""Storage by URL: one suite for local disks and an object store, then what each owes alone."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from data_prep.contract import local
from data_prep.contract.errors import IntegrityError, NotFoundError, RefusedError, StorageError
from data_prep.contract.faults import kind_of
from data_prep.contract.remote import RemoteFolder
from data_prep.contract.storage import Retries, Storage, checked

PATIENT = Retries(attempts=3, first_seconds=0, longest_seconds=0)


@pytest.fixture(params=["local", "file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    urls = {"local": str(tmp_path / "store"), "file": (tmp_path / "store").as_uri(), "memory": "memory://store"}
    yield Storage(urls[request.param], PATIENT)
    fsspec.filesystem("memory").store.clear()


def test_what_is_put_is_got(storage: Storage) -> None:
    storage.put("a/b.bin", b"hello")
    assert storage.get("a/b.bin", max_bytes=5) == b"hello"


def test_an_object_is_replaced(storage: Storage) -> None:
    storage.put("a", b"long before")
    storage.put("a", b"after")
    assert storage.get("a", max_bytes=99) == b"after"


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.put("a", b"")
    assert storage.exists("a")
    assert storage.get("a", max_bytes=0) == b""


@pytest.mark.parametrize("data", [bytearray(b"hello"), memoryview(b"hello")], ids=["bytearray", "memoryview"])
def test_any_buffer_can_be_put(storage: Storage, data: bytearray | memoryview) -> None:
    storage.put("a", data)
    assert storage.get("a", max_bytes=5) == b"hello"


def test_a_range_is_exactly_those_bytes(storage: Storage) -> None:
    storage.put("a", bytes(range(100)))
    assert storage.get_range("a", offset=10, length=3) == bytes([10, 11, 12])


def test_a_range_beyond_the_end_is_an_integrity_error(storage: Storage) -> None:
    storage.put("a", b"hello")
    with pytest.raises(IntegrityError, match=r"bytes 3 to 7 of .*a: only 2 bytes came"):
        storage.get_range("a", offset=3, length=4)


def test_one_range_fills_many_rooms(storage: Storage) -> None:
    """More of them than one call of the kernel takes, empty ones too."""
    data = bytes(number % 251 for number in range(10_000))
    storage.put("object", data)
    rooms = [bytearray(number % 7) for number in range(3000)]
    storage.read_into("object", *map(memoryview, rooms), offset=5)
    assert b"".join(rooms) == data[5 : 5 + sum(map(len, rooms))]


def test_each_room_is_told_of_once_when_it_is_full(storage: Storage) -> None:
    data = bytes(number % 251 for number in range(3 * 2**20))
    storage.put("object", data)
    rooms, told = [bytearray(2**20 + number) for number in range(2)], list[tuple[int, bool]]()

    def on_full(number: int) -> None:
        start = number * 2**20
        told.append((number, rooms[number] == data[start : start + len(rooms[number])]))

    storage.read_into("object", *map(memoryview, rooms), offset=0, on_full=on_full)
    assert told == [(0, True), (1, True)]


def test_rooms_beyond_the_end_are_an_integrity_error(storage: Storage) -> None:
    storage.put("object", b"0123456789")
    with pytest.raises(IntegrityError, match="only 4 bytes came"):
        storage.read_into("object", memoryview(bytearray(3)), memoryview(bytearray(3)), offset=6)


def test_an_object_larger_than_expected_is_not_read(storage: Storage) -> None:
    storage.put("a", b"hello")
    with pytest.raises(RefusedError, match="has 5 bytes, but at most 4 make sense"):
        storage.get("a", max_bytes=4)


def test_listing_is_deep_sorted_and_relative(storage: Storage) -> None:
    for path in ("b", "a/c/d", "a/b"):
        storage.put(path, b"x")
    assert storage.list() == ("a/b", "a/c/d", "b")
    assert storage.list("a") == ("a/b", "a/c/d")


def test_listing_a_folder_that_is_not_there_is_empty(storage: Storage) -> None:
    assert storage.list("nowhere") == ()


def test_only_folders_are_listed_as_others(storage: Storage) -> None:
    for path in ("a/b", "a/c/d", "a/e/f/g"):
        storage.put(path, b"x")
    assert storage.list_others("a") == ("a/c", "a/e")
    assert storage.list_others("nowhere") == ()


def test_deleting_an_object_leaves_the_others(storage: Storage) -> None:
    storage.put("a", b"x")
    storage.put("b", b"x")
    storage.delete("a")
    assert storage.list() == ("b",)


def test_deleting_a_folder_leaves_its_neighbour(storage: Storage) -> None:
    storage.put("a/x", b"x")
    storage.put("ab/x", b"x")
    storage.delete_folder("a")
    assert storage.list() == ("ab/x",)


def test_deleting_what_is_gone_is_fine(storage: Storage) -> None:
    storage.delete("nothing")
    storage.delete_folder("nothing")
    assert storage.list() == ()


def test_a_missing_object_is_named(storage: Storage) -> None:
    with pytest.raises(NotFoundError, match="store/nothing: no such object"):
        storage.get("nothing", max_bytes=1)


def test_a_folder_is_no_object(storage: Storage) -> None:
    storage.put("a/b", b"x")
    assert not storage.exists("a")


def test_a_joined_storage_is_the_folder_inside(storage: Storage) -> None:
    storage.join("a/b").put("c", b"x")
    assert storage.list() == ("a/b/c",)


def test_a_file_to_read_from_can_seek(storage: Storage) -> None:
    storage.put("a", bytes(range(100)))
    with storage.open("a") as file:
        file.seek(50)
        assert file.read(2) == bytes([50, 51])


def test_threads_share_a_storage(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: storage.put(f"a/{number}", bytes([number])), range(64)))
        found = list(threads.map(lambda number: storage.get(f"a/{number}", max_bytes=1), range(64)))
    assert found == [bytes([number]) for number in range(64)]


def test_a_storage_survives_pickling(storage: Storage) -> None:
    storage.put("a", b"x")
    assert pickle.loads(pickle.dumps(storage)).get("a", max_bytes=1) == b"x"


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "a//b", "a/./b", "a\\b", "a\0"])
def test_no_path_leaves_its_folder(storage: Storage, path: str) -> None:
    with pytest.raises(RefusedError, match="is no path inside a folder"):
        storage.get(path, max_bytes=1)


def test_checked_gives_a_good_path_back() -> None:
    assert checked(".progress/a.json") == ".progress/a.json"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://bucket", "unknown scheme; known are local paths, file, memory, s3, "),
        ("abfs://bucket", "needs a package that is not installed .*; install it, or take one of .*: local paths, file"),
    ],
)
def test_a_scheme_that_cannot_be_served_is_explained(url: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        Storage(url).get("a", max_bytes=1)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")])
def test_a_package_that_is_missing_is_named(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **_options: object) -> None:
        raise ImportError(f"Install something to access {name}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(RefusedError, match=rf"{scheme}://bucket/a: .*; run `pip install {package}`"):
        Storage(f"{scheme}://bucket").get("a", max_bytes=1)


def test_making_a_storage_touches_nothing(tmp_path: Path) -> None:
    Storage(str(tmp_path / "not" / "there")).join("a")
    Storage("nope://bucket").join("a")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_object_alone(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path), PATIENT)
    storage.put("a", b"old")
    with pytest.raises(TypeError):
        storage.put("a", "no bytes")
    assert storage.get("a", max_bytes=99) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_in_the_way_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RefusedError, match="a file stands where a folder is needed"):
        Storage(str(tmp_path / "file")).put("a", b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; covered by the error table below")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RefusedError, match="access is denied"):
        Storage(str(tmp_path)).put("a", b"x")


def test_the_remains_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from data_prep.contract import local\n"
        "local.os.fsync = lambda descriptor: os._exit(9)\n"
        "local.LocalFolder(sys.argv[1]).write('a', b'half')\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    (remains,) = tmp_path.iterdir()
    storage = Storage(str(tmp_path))
    assert storage.list() == ()
    storage.delete_leftovers()
    assert not remains.exists()


def test_the_temporary_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    host = os.uname().nodename.replace(".", "-")
    temporary = tmp_path / f".a.{host}.{os.getpid()}-1-1.part"
    temporary.write_bytes(b"half")
    Storage(str(tmp_path)).delete_leftovers()
    Storage(str(tmp_path.parent)).delete_folder(tmp_path.name)
    assert temporary.exists()


def test_what_an_interrupt_left_of_our_own_write_is_removed(tmp_path: Path) -> None:
    """It may come in the very moment in which the temporary file is to be removed."""
    (tmp_path / local._temporary_name("a")).write_bytes(b"half")
    Storage(str(tmp_path)).delete_leftovers()
    assert list(tmp_path.iterdir()) == []


def test_a_write_outlives_that_its_folder_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the first of two conversions at once forgets the journal that the second one writes to."""
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(local.os, "fsync", lambda descriptor: storage.delete_folder("journal"))
    storage.put("journal/a", b"whole")
    assert storage.get("journal/a", max_bytes=5) == b"whole"


class Flaky:
    """Stands for a folder: raises what it is given, one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def size(self, path: str) -> int:
        del path
        if self.errors:
            raise self.errors.pop(0)
        return 7


def flaky(*errors: Exception) -> Storage:
    storage = Storage("memory://flaky", PATIENT)
    storage.__dict__["_folder"] = Flaky(*errors)
    return storage


def test_transient_errors_are_tried_again() -> None:
    assert flaky(TimeoutError(), ConnectionResetError()).size("a") == 7


def test_attempts_are_bounded() -> None:
    with pytest.raises(StorageError, match=r"flaky/a: storage failed after 3 attempts: TimeoutError"):
        flaky(TimeoutError(), TimeoutError(), TimeoutError()).size("a")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError("no"), RefusedError),
        (FileNotFoundError("no"), NotFoundError),
        (IsADirectoryError("no"), NotFoundError),
        (FileExistsError("no"), RefusedError),
        (OSError(28, "No space left on device"), StorageError),
        (KeyError("a fault of ours"), KeyError),
    ],
)
def test_other_errors_are_not_tried_again(error: Exception, expected: type[Exception]) -> None:
    storage = flaky(error)
    with pytest.raises(expected):
        storage.size("a")
    assert storage.size("a") == 7


def test_errors_of_clients_without_oserror_are_transient() -> None:
    payload_error = type("ClientPayloadError", (Exception,), {"__module__": "aiohttp.client_exceptions"})
    assert kind_of(payload_error()) == "cut_short"


def test_missing_credentials_are_refused_with_what_to_set() -> None:
    """After some tries, since the service that hands them out on a cloud's machines may be busy."""
    missing = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})
    with pytest.raises(RefusedError, match=r"memory://flaky/a: no credentials .*; set those of this store"):
        flaky(missing(), missing(), missing()).size("a")


def test_waiting_grows_and_stays_bounded() -> None:
    retries = Retries(first_seconds=1.0, longest_seconds=4.0)
    assert all(0 <= retries.delay(attempt) <= min(4.0, 2.0**attempt) for attempt in range(50) for _ in range(20))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"ETag": '"a1"', "LastModified": "11:56:01.123"}, {"ETag": "a1", "LastModified": "11:56:01"}),
        ({"blob_id": "a1", "last_commit": None}, {"blob_id": "a1", "last_commit": "yesterday"}),
    ],
    ids=["a listing and an answer", "the hub"],
)
def test_an_object_has_one_fingerprint_however_it_is_asked_for(
    first: dict[str, object], second: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for info in (first, second, {**first, "ETag": "b2", "blob_id": "b2"}):
        monkeypatch.setattr(RemoteFolder, "_info", lambda folder, path, info=info: {"size": 5, **info})
        found.append(RemoteFolder("memory", "bucket", timeout_seconds=1).fingerprint("a.hdf5"))
    assert found[0] == found[1]
    assert found[0] != found[2]
