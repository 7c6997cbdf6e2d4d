"""Processes that share a cache and are killed: never a wrong byte, never above the bound, nothing left behind."""

import json
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.integration.cache_user import (
    FEW,
    NUM_RECORDS,
    RECORDS_BYTES,
    WRONG_BYTES,
    files_bytes,
    get,
    open_cache,
    set_aside,
)
from trainer.data.cache import BLOCK_BYTES

USERS, KILLS = 4, 10
COMMAND = (sys.executable, "-m", "tests.integration.cache_user")


def start(stack: ExitStack, folder: Path, seed: int) -> subprocess.Popen[str]:
    user = subprocess.Popen([*COMMAND, "use", str(folder), str(seed)], stdout=subprocess.PIPE, text=True)
    stack.callback(user.wait)
    stack.callback(user.kill)
    assert user.stdout is not None
    stack.callback(user.stdout.close)
    assert user.stdout.readline() == "ready\n"
    return user


def test_processes_that_are_killed_at_random_leave_right_bytes_within_the_bound(tmp_path: Path) -> None:
    """The records are three times the bound."""
    bound, folder, draw = RECORDS_BYTES // 3, tmp_path / "cache", random.Random(0)
    largest = 0
    with ExitStack() as stack:
        users = [start(stack, folder, seed) for seed in range(USERS)]
        for kill in range(KILLS):
            until = time.monotonic() + draw.uniform(0.02, 0.1)
            while time.monotonic() < until:
                largest = max(largest, files_bytes(folder))
            victim = draw.randrange(USERS)
            users[victim].kill()
            assert users[victim].wait() != WRONG_BYTES
            users[victim] = start(stack, folder, USERS + kill)
        assert [user.poll() for user in users] == [None] * USERS, "one has met wrong bytes"
    assert bound // 2 < largest <= bound
    assert files_bytes(folder) <= set_aside(folder) <= bound
    cache = open_cache(folder, max_bytes=bound)
    there = sum(get(cache, number) for number in range(NUM_RECORDS))
    assert there > NUM_RECORDS // 6
    assert cache.counts["corrupt"] == 0


def test_a_kill_at_any_line_leaves_right_bytes_within_the_bound(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "die", str(tmp_path / "cache")], capture_output=True, text=True, check=True, timeout=120
    )
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(found) > 100
    assert [one["was_killed"] for one in found] == [True] * (len(found) - 1) + [False]
    for one in found:
        before, after = one["before"], one["after"]
        assert before["bytes"] <= FEW, one
        assert before["bytes"] <= before["set_aside"] + BLOCK_BYTES, one  # the record that was spoilt has grown shorter
        assert after == {"bytes": FEW, "set_aside": FEW, "kept": 4, "parts": 0}, one
