"""Storage that misbehaves: a few faults change no byte, and endless ones end the stream within its limits."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from data_prep.contract.s3_ranges import CHUNK_BYTES, S3Ranges
from tests.integration.faulty_store import FAULTS, Fault, FaultyStore, faulty_store
from tests.unit.prepared import Prepared, prepare
from trainer.config.schema import DataConfig
from trainer.data.loader import Loader
from trainer.data.stream import open_datasets, training_loader
from trainer.errors import DataError, IntegrityError

FIELD_IDS = {"density": 0, "momentum_x": 1, "momentum_y": 2}
RETRIES = {"attempts": 8, "first_seconds": 0.01, "longest_seconds": 0.05, "timeout_seconds": 30.0}
IMPATIENT = RETRIES | {"timeout_seconds": 1.0}
BATCHES = 20
ERRORS = (DataError, IntegrityError)


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("store") / "bucket" / "waves"
    return prepare(folder, lengths=(20, 20), resolution=(32, 32), codec="blosc-lz4", records_per_shard=10)


@pytest.fixture(params=["obstore", "s3fs"])
def store(prepared: Prepared, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[FaultyStore]:
    """As either client of S3 meets it."""
    if request.param == "obstore":
        pytest.importorskip("obstore", reason="obstore is an extra; s3fs serves without it")
    else:
        monkeypatch.setattr(S3Ranges, "is_possible", lambda: False)
    with faulty_store(Path(prepared.url).parents[1]) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield store
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def stream(url: str, **more: object) -> Loader:
    data = DataConfig.model_validate(
        {"datasets": ({"url": url},), "window": {"frames": 3}, "batch_size": 4, "retries": RETRIES, "threads": 4} | more
    )
    return training_loader(
        data,
        open_datasets(data),
        seed=1,
        step=0,
        share=Share(),
        micro_batch_size=2,
        field_ids=FIELD_IDS,
        pin=False,
    )


def batches(loader: Loader, count: int = BATCHES) -> list[bytes]:
    return [batch.fields.numpy().tobytes() for _ in range(count) for batch in loader.take(2)]


@pytest.fixture(scope="module")
def clean(prepared: Prepared) -> list[bytes]:
    with stream(prepared.url) as loader:
        return batches(loader)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_five_percent_of_requests_changes_no_byte(
    store: FaultyStore, clean: list[bytes], fault: Fault
) -> None:
    store.fault, store.share = fault, 0.05
    retries = IMPATIENT if fault == "timeout" else RETRIES
    with stream("s3://bucket/waves", retries=retries) as loader:
        assert batches(loader) == clean
        totals = loader.totals
    assert store.injected > 0
    if fault != "reset":  # the client itself repeats a request whose kept connection turns out to be broken
        assert totals[f"faults/{fault}"] > 0
    assert sum(totals[f"faults/{kind}"] for kind in FAULTS if kind not in (fault, "timeout")) == 0


def test_plain_http_serves_too(store: FaultyStore, clean: list[bytes]) -> None:
    store.fault, store.share = "server_error", 0.05
    with stream(f"{store.endpoint}/bucket/waves") as loader:
        assert batches(loader) == clean


def test_a_body_that_breaks_off_is_resumed_where_it_broke(store: FaultyStore) -> None:
    """Half of what is asked for comes each time; obstore drops what has come of its last chunk."""
    prepare(store.folder / "bucket" / "large", lengths=(3,), resolution=(256, 256))
    store.fault, store.share = "cut_short", 1.0
    with (
        stream("s3://bucket/large", threads=1, batch_size=2, retries=RETRIES | {"attempts": 2}) as loader,
        pytest.raises(DataError, match="after 2 attempts"),
    ):
        loader.take(1)
    (path, first, length), (same, resumed, rest) = store.ranges[:2]
    half = -(-length // 2)
    assert (path, first + length) == (same, resumed + rest)
    assert first + half - CHUNK_BYTES < resumed <= first + half


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_every_request_stops_with_one_clear_error(store: FaultyStore, fault: Fault) -> None:
    store.fault, store.share = fault, 1.0
    retries = (IMPATIENT if fault == "timeout" else RETRIES) | {"attempts": 2}
    place = r"dataset waves, shard s3://bucket/waves/shard-\d, window of 3 frames from frame \d+ of train/a\.hdf5#"
    with (
        stream("s3://bucket/waves", retries=retries) as loader,
        pytest.raises((DataError, IntegrityError), match=place),
    ):
        batches(loader)


def test_requests_that_hang_end_with_the_process_that_made_them(store: FaultyStore) -> None:
    """Nothing waits for an answer that never comes."""
    store.fault, store.share, store.hang_seconds = "timeout", 1.0, 60.0
    retries = IMPATIENT | {"attempts": 1}
    with stream("s3://bucket/waves", retries=retries) as loader, pytest.raises(DataError, match="after 1 attempts"):
        batches(loader)


def test_skipped_windows_are_named_counted_and_replaced_alike_for_any_world(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = prepare(tmp_path, lengths=(20, 20), resolution=(32, 32), codec="blosc-lz4", records_per_shard=10)
    data = bytearray(broken.shard_path(1).read_bytes())
    data[len(data) // 2] ^= 1
    broken.shard_path(1).write_bytes(data)
    found = []
    for world_size in (1, 2):
        windows: dict[int, bytes] = {}
        skipped = 0.0
        for rank in range(world_size):
            data = DataConfig.model_validate(
                {
                    "datasets": ({"url": broken.url},),
                    "window": {"frames": 3},
                    "batch_size": 4,
                    "max_skipped_windows": 100,
                }
            )
            with training_loader(
                data,
                open_datasets(data),
                seed=1,
                step=0,
                share=Share(rank, world_size),
                micro_batch_size=1,
                field_ids=FIELD_IDS,
                pin=False,
            ) as loader:
                for batch in (one for _ in range(12) for one in loader.take(4 // world_size)):
                    windows[batch.windows[0]] = batch.fields.numpy().tobytes()
                skipped += loader.totals["skipped_windows"]
        found.append((windows, skipped))
    assert found[0] == found[1]
    assert found[0][1] > 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * found[0][1]
    assert all("skipped a window, for which trajectory" in line and "shard-1" in line for line in lines)


def test_more_skipped_windows_than_allowed_stop_the_stream(tmp_path: Path) -> None:
    broken = prepare(tmp_path, lengths=(20, 20), resolution=(32, 32), records_per_shard=10)
    broken.shard_path(1).write_bytes(bytes(broken.manifest.shards[1].bytes))
    with (
        stream(broken.url, max_skipped_windows=2) as loader,
        pytest.raises(DataError, match=r"windows could not be read and were skipped .*max_skipped_windows is 2;"),
    ):
        batches(loader)
