"""Processes that use one cache, for test_cache_killed.

`python -m tests.integration.cache_user use FOLDER SEED` reads and keeps records drawn at random until it is killed; it
ends by itself, with 3, where a byte is wrong.
`python -m tests.integration.cache_user die FOLDER` kills children of its own, each at one more line of the code of the
cache that may change a file, and prints for every moment what they left.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from data_prep.contract.checksum import checksum
from trainer.data import cache as cache_module
from trainer.data.cache import BLOCK_BYTES, LEDGER, PARTS, RECORDS, Cache

NUM_RECORDS = 150
RECORDS_BYTES = sum(BLOCK_BYTES * (1 + number % 8) for number in range(NUM_RECORDS))
WRONG_BYTES = 3
FEW = 4 * BLOCK_BYTES
LOOKING = {"_survey", "_count", "_room_of", "__init__", "<genexpr>", "<lambda>"}
"""Functions of the cache that change no file: a kill among their lines is like one before them."""


def content(number: int) -> bytes:
    """Of one record: what storage would give."""
    return np.random.default_rng(number).bytes(BLOCK_BYTES * (1 + number % 8) - number)


def name_of(number: int) -> str:
    return f"waves/{number % 5}/{number}"


def open_cache(folder: Path, *, max_bytes: int) -> Cache:
    cache = Cache(str(folder), max_bytes=max_bytes)
    cache.open()
    return cache


def get(cache: Cache, number: int) -> bool:
    """Whether the record was there. Ends the process with WRONG_BYTES where it was another one."""
    expected = content(number)
    out = bytearray(len(expected))
    if not cache.read(name_of(number), memoryview(out), crc32c=checksum(expected)):
        return False
    if out != expected:
        os._exit(WRONG_BYTES)
    return True


def put(cache: Cache, number: int) -> None:
    cache.put(name_of(number), memoryview(content(number)))


def files_bytes(folder: Path) -> int:
    """What all files take at this moment; one that is renamed meanwhile counts once."""
    found: dict[int, int] = {}
    for place in (*(folder / PARTS).rglob("*"), *(folder / RECORDS).rglob("*")):
        try:
            status = place.stat()
        except FileNotFoundError:
            continue
        if place.is_file():
            found[status.st_ino] = -(-status.st_size // BLOCK_BYTES) * BLOCK_BYTES
    return sum(found.values())


def set_aside(folder: Path) -> int:
    return int((folder / LEDGER).read_text().split()[1])


def use(folder: Path, seed: int) -> None:
    cache = open_cache(folder, max_bytes=RECORDS_BYTES // 3)
    print("ready", flush=True)
    random = np.random.default_rng(seed)
    while True:
        number = int(random.integers(NUM_RECORDS))
        if not get(cache, number):
            put(cache, number)


def die(folder: Path) -> Iterator[dict[str, Any]]:
    """What is found after a kill at line 1, 2, … of what one process does to a cache that is full."""
    for moment in count(1):
        shutil.rmtree(folder, ignore_errors=True)
        cache = open_cache(folder, max_bytes=FEW)
        for number in (0, 8, 16, 24):
            put(cache, number)
        (folder / RECORDS / name_of(8)).write_bytes(b"wrong")
        child = os.fork()
        if not child:
            _kill_at(moment)
            _work(cache)
            os._exit(0)
        was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        yield {"moment": moment, "was_killed": was_killed, **_found(folder)}
        if not was_killed:
            return


def _work(cache: Cache) -> None:
    """A hit, a miss that evicts, a record that is wrong, one that finds room, one that is here by now."""
    get(cache, 0)
    put(cache, 32)
    get(cache, 8)
    put(cache, 8)
    put(cache, 32)


def _found(folder: Path) -> dict[str, Any]:
    """Of the files; and again after somebody else has used them."""
    before = {"bytes": files_bytes(folder), "set_aside": set_aside(folder)}
    cache = open_cache(folder, max_bytes=FEW)
    for number in (0, 8, 16, 24, 32):
        get(cache, number)
    for number in (40, 48, 56, 64, 72):
        put(cache, number)
    kept = sum(get(cache, number) for number in (40, 48, 56, 64, 72))
    parts = len(list((folder / PARTS).iterdir()))
    after = {"bytes": files_bytes(folder), "set_aside": set_aside(folder), "kept": kept, "parts": parts}
    return {"before": before, "after": after}


def _kill_at(moment: int) -> None:
    lines = count(1)

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != cache_module.__file__ or frame.f_code.co_name in LOOKING:
            return None
        if event == "line" and next(lines) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


if __name__ == "__main__":
    if sys.argv[1] == "use":
        use(Path(sys.argv[2]), int(sys.argv[3]))
    for outcome in die(Path(sys.argv[2])):
        print(json.dumps(outcome), flush=True)
