"""Windows through a real S3 server on loopback, beside bare requests for as many bytes by the fastest client.

    python -m tests.benchmarks.test_stream_from_s3      windows of 8 frames, 256x256, 4 channels; takes some minutes

`ours` is a source in 8 threads: fetched, checked, decoded into reused buffers. The bare clients fetch the same ranges
and throw them away. All take turns, so that they meet the same machine, which the server shares; the table has medians.
With latency, a proxy holds every request back for 25 ms: 8 in flight can be 8 times as fast as one alone, says Little's
law.

As an ordinary test it runs once, small: requests and bytes are counted at the proxy, and no time is asserted.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import botocore.session
import fsspec
import numpy as np
import pytest

from data_prep.__main__ import main as data_prep
from data_prep.contract.s3_ranges import S3Ranges
from tests.benchmarks.peer_readers import FRAMES
from tests.benchmarks.test_delivery_rate import loader_alone
from tests.benchmarks.test_stream_peers import make
from tests.integration.s3_server import S3Server, s3_server
from tests.integration.slow_proxy import SlowProxy, slow_proxy
from tests.unit.tiny_well import write_file
from trainer.config.schema import DataConfig
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.requests import Request, plan_requests
from trainer.data.ring import Scratch
from trainer.data.source import Source
from trainer.data.stream import open_datasets
from trainer.data.windows import Window, WindowShape

IN_FLIGHT, LATENCY_SECONDS = 8, 0.025
STORED = ("zarr-none", "zarr-blosc-lz4", "tar")
LARGEST_AMPLIFICATION = 1.1

Fetch = Callable[[Window], int]
"""Gives the stored bytes of the window."""


@contextmanager
def clients_of(endpoint: str) -> Iterator[None]:
    """Clients that are made from now on talk to this endpoint."""
    before = os.environ.get("AWS_ENDPOINT_URL")
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        yield
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        del os.environ["AWS_ENDPOINT_URL"]
        if before is not None:
            os.environ["AWS_ENDPOINT_URL"] = before


def upload(folder: Path, server: S3Server) -> str:
    """The prepared datasets, to a new bucket."""
    bucket = server.make_bucket()
    for name in STORED:
        server.files().put(str(folder / name), f"{bucket}/{name}", recursive=True)
    return bucket


def ours(dataset: Dataset) -> Fetch:
    source = Source(dataset, frames=FRAMES)
    rooms: SimpleQueue[tuple[np.ndarray, Scratch]] = SimpleQueue()
    for _ in range(IN_FLIGHT):
        rooms.put((np.zeros(dataset.window_shape(FRAMES), np.float32), Scratch()))

    def fetch(window: Window) -> int:
        out, scratch = rooms.get()
        cost = source.read(window, out=out, scratch=scratch)
        rooms.put((out, scratch))
        return cost.bytes_read

    return fetch


def bare_clients(dataset: Dataset) -> dict[str, Fetch]:
    """Of the same ranges, by each client that can be had. boto3 is botocore's client in other clothes."""
    bucket, _, prefix = dataset.storage.url.removeprefix("s3://").partition("/")
    source = Source(dataset, frames=FRAMES)
    botocore_client = botocore.session.get_session().create_client("s3")
    files = fsspec.filesystem("s3")

    def by_botocore(key: str, start: int, end: int) -> int:
        found = botocore_client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
        return len(found["Body"].read())

    def by_s3fs(key: str, start: int, end: int) -> int:
        return len(files.cat_file(f"{bucket}/{key}", start=start, end=end))

    clients = {"botocore": by_botocore, "s3fs": by_s3fs}
    if S3Ranges.is_possible():
        import obstore
        from obstore.store import S3Store

        endpoint = os.environ["AWS_ENDPOINT_URL"]
        store = S3Store(bucket, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True})
        clients["obstore"] = lambda key, start, end: len(obstore.get_range(store, key, start=start, end=end))

    def of_window(get: Callable[[str, int, int], int]) -> Fetch:
        def fetch(window: Window) -> int:
            found = 0
            for request in requests_of(source, window):
                path = dataset.manifest.shards[request.shard].path
                found += get(f"{prefix}/{path}", request.offset, request.offset + request.num_bytes)
            return found

        return fetch

    return {f"bare {name}": of_window(get) for name, get in clients.items()}


def make_tars(folder: Path) -> None:
    """Four shards, each of one trajectory."""
    source = folder / "well"
    write_file(source / "data" / "train" / "a.hdf5", num_trajectories=4, num_steps=17, axes={"x": 64, "y": 64})
    options = ("--format", "webdataset", "--shard-bytes", "1M")
    assert data_prep(["convert", str(source), str(folder / "tar"), *options]) == 0


def requests_of(source: Source, window: Window) -> list[Request]:
    return plan_requests(source.records(window))


def drawn_windows(dataset: Dataset, count: int) -> list[Window]:
    windows, draws = dataset.windows(WindowShape(FRAMES)), random.Random(0)
    return [windows[draws.randrange(windows.total)] for _ in range(count)]


@dataclass(frozen=True)
class Turn:
    gigabytes_per_second: float
    cpu_seconds_per_gigabyte: float
    """Of this process alone: the server's are not counted."""


def take_turn(fetch: Fetch, windows: list[Window], *, in_flight: int) -> Turn:
    with ThreadPoolExecutor(in_flight) as threads:
        wall, cpu = time.perf_counter(), time.process_time()
        gigabytes = sum(threads.map(fetch, windows)) / 1e9
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Turn(gigabytes / wall, cpu / gigabytes)


def take_turns(fetches: Mapping[str, Fetch], windows: list[Window], *, rounds: int) -> dict[str, Turn]:
    """Medians over the rounds, the first to warm up."""
    turns = [
        {name: take_turn(fetch, windows, in_flight=IN_FLIGHT) for name, fetch in fetches.items()}
        for _ in range(rounds + 1)
    ][1:]
    return {
        name: Turn(
            statistics.median(turn[name].gigabytes_per_second for turn in turns),
            statistics.median(turn[name].cpu_seconds_per_gigabyte for turn in turns),
        )
        for name in fetches
    }


def print_rates(dataset: Dataset, *, rounds: int, count: int) -> None:
    """Ours by either client, and each bare client."""
    fetches = {"ours": ours(dataset), **bare_clients(dataset)}
    medians = take_turns(fetches, drawn_windows(dataset, count), rounds=rounds)
    fastest = max(turn.gigabytes_per_second for name, turn in medians.items() if name != "ours")
    for name, turn in medians.items():
        share = turn.gigabytes_per_second / fastest
        print(f"{name:16}{turn.gigabytes_per_second:8.3f} GB/s{share:8.2f} of the fastest bare one", end="")
        print(f"{turn.cpu_seconds_per_gigabyte:8.2f} CPU s/GB")


def print_share_of_littles_law(dataset: Dataset, *, rounds: int, count: int) -> None:
    fetches, windows = {"ours": ours(dataset), **bare_clients(dataset)}, drawn_windows(dataset, count)
    shares: dict[str, list[float]] = {name: [] for name in fetches}
    for _ in range(rounds + 1):
        for name, fetch in fetches.items():
            alone = take_turn(fetch, windows[: count // IN_FLIGHT], in_flight=1).gigabytes_per_second
            together = take_turn(fetch, windows, in_flight=IN_FLIGHT).gigabytes_per_second
            shares[name].append(together / (IN_FLIGHT * alone))
    for name, found in shares.items():
        share = statistics.median(found[1:])
        print(f"{name:16}{share:8.2f} of what Little's law allows {IN_FLIGHT} in flight after 25 ms each")


# ----------------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3")
    make(folder, size=64, steps=17, trajectories=2)
    return folder


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[SlowProxy]:
    with slow_proxy(s3.endpoint) as proxy, clients_of(proxy.endpoint):
        yield proxy


@pytest.mark.parametrize("client", ["obstore", "s3fs"])
def test_a_window_is_one_request_and_hardly_more_bytes_than_it_uses(
    small: Path, s3: S3Server, proxy: SlowProxy, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if client == "s3fs":
        monkeypatch.setattr(S3Ranges, "is_possible", lambda: False)
    bucket = upload(small, s3)
    for name in STORED:
        dataset = open_dataset(f"{bucket}/{name}")
        fetch, source, windows = ours(dataset), Source(dataset, frames=FRAMES), drawn_windows(dataset, 12)
        fetch(windows[0])  # a client may ask more at first
        proxy.reset()
        for window in windows:
            fetch(window)
        used = sum(record.num_bytes for window in windows for record in source.records(window))
        assert proxy.requests == len(windows)
        assert used < proxy.num_bytes < LARGEST_AMPLIFICATION * used


def test_tars_come_once_an_epoch_by_one_request_a_shard(s3: S3Server, proxy: SlowProxy, tmp_path: Path) -> None:
    """Eight threads, overlapping windows: each record is used by up to eight of them, and fetched by one."""
    make_tars(tmp_path / "tars")
    bucket = s3.make_bucket()
    s3.files().put(str(tmp_path / "tars" / "tar"), f"{bucket}/tar", recursive=True)
    data = DataConfig.model_validate(
        {
            "datasets": ({"url": f"{bucket}/tar"},),
            "window": {"frames": FRAMES},
            "batch_size": 2,
            "shards_in_group": 1,
            "cache": {"folder": str(tmp_path / "cache"), "bytes": 2**28, "whole_shards": True},
        }
    )
    [dataset] = datasets = open_datasets(data)
    proxy.reset()
    with loader_alone(data, datasets) as loader:
        for _ in range(dataset.windows(WindowShape(FRAMES)).total // 2):
            loader.take(1)
        totals = loader.totals
    assert len(dataset.manifest.shards) == 4
    assert totals["requests"] == proxy.requests == 4
    assert dataset.stored_bytes < proxy.num_bytes < LARGEST_AMPLIFICATION * dataset.stored_bytes


def test_the_bare_clients_fetch_as_many_bytes(small: Path, s3: S3Server) -> None:
    dataset = open_dataset(f"{upload(small, s3)}/zarr-none")
    [window] = drawn_windows(dataset, 1)
    fetches = {"ours": ours(dataset), **bare_clients(dataset)}
    assert len({fetch(window) for fetch in fetches.values()}) == 1
    assert all(turn.gigabytes_per_second > 0 for turn in take_turns(fetches, [window] * 8, rounds=1).values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, s3_server(os.environ) as server:
        os.environ.update(server.environment)
        make(Path(scratch), size=256, steps=41, trajectories=3)
        bucket = upload(Path(scratch), server)
        for name in STORED:
            print(f"\n{name}: {FRAMES} frames of 256x256x4, {IN_FLIGHT} in flight")
            print_rates(open_dataset(f"{bucket}/{name}"), rounds=7, count=48)
        make(Path(scratch, "small"), size=64, steps=41, trajectories=3)
        bucket = upload(Path(scratch, "small"), server)
        with slow_proxy(server.endpoint) as proxy, clients_of(proxy.endpoint):
            proxy.latency_seconds = LATENCY_SECONDS
            print(f"\nzarr-none: {FRAMES} frames of 64x64x4")
            print_share_of_littles_law(open_dataset(f"{bucket}/zarr-none"), rounds=7, count=256)
