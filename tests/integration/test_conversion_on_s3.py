"""Conversions to a real S3 server, killed at random moments and shared by machines: the objects are always the same."""

import multiprocessing
import random
import signal
import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.contract.checksum import checksum
from data_prep.contract.storage import Storage
from tests.integration.conversions import make_corpus
from tests.integration.s3_server import S3Server

NUM_KILLS = 20
OPTIONS = ("--format", "zarr", "--shard-bytes", "400K")
"""12 shards of four trajectories each."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported everything when they start: a kill meets the conversion, not the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_prep.__main__", "data_prep.layouts.zarr_writer", "s3fs"])
    return context


def convert(corpus: Path, url: str, *options: str) -> None:
    raise SystemExit(main(["convert", str(corpus), url, *OPTIONS, *options]))


def start(processes: ForkServerContext, corpus: Path, url: str, *options: str) -> BaseProcess:
    process = processes.Process(target=convert, args=(corpus, url, *options))
    process.start()
    return process


def objects(url: str) -> dict[str, int]:
    """A checksum of each object, by path."""
    storage = Storage(url)
    return {path: checksum(storage.get(path, max_bytes=size)) for path, size in storage.sizes().items()}


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What a conversion leaves that nobody stops: the same on a disk."""
    folder = tmp_path_factory.mktemp("whole") / "prepared"
    assert main(["convert", str(corpus), str(folder), *OPTIONS]) == 0
    return objects(str(folder))


def seconds_of_a_conversion(processes: ForkServerContext, corpus: Path, bucket: str) -> float:
    """The second's: the first pays for what is new to the server and to the processes."""
    began = 0.0
    for name in ("first", "second"):
        began = time.monotonic()
        process = start(processes, corpus, f"{bucket}/{name}")
        process.join()
        assert process.exitcode == 0
    return time.monotonic() - began


def test_killed_at_twenty_random_moments_the_objects_are_the_same(
    s3: S3Server, corpus: Path, processes: ForkServerContext, whole: dict[str, int]
) -> None:
    """Anywhere between a first look at the server and the last object: what ends in time is begun anew elsewhere."""
    bucket, draw = s3.make_bucket(), random.Random(0)
    seconds = seconds_of_a_conversion(processes, corpus, bucket)
    kills, destination = 0, 0
    while kills < NUM_KILLS:
        process = start(processes, corpus, f"{bucket}/{destination}")
        process.join(draw.uniform(0, seconds))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        else:
            assert process.exitcode == 0
            assert objects(f"{bucket}/{destination}") == whole
            destination += 1
    last = start(processes, corpus, f"{bucket}/{destination}")
    last.join()
    assert objects(f"{bucket}/{destination}") == whole


def test_parts_at_once_make_the_same_objects(
    s3: S3Server, corpus: Path, processes: ForkServerContext, whole: dict[str, int]
) -> None:
    url = f"{s3.make_bucket()}/parts"
    parts = [start(processes, corpus, url, "--part", f"{number}/3") for number in range(3)]
    for part in parts:
        part.join()
    assert [part.exitcode for part in parts] == [0, 0, 0]
    assert objects(url) == whole
