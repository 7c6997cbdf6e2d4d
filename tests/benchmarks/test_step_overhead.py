"""What a step of ours costs beside a bare hand-written loop of PyTorch's DDP, and what a save beside it adds.

    python -m tests.benchmarks.test_step_overhead        the demo's dynamics on 64x64, two ranks, one thread each

Prints the ratio of medians over rounds that alternate between the ways. As an ordinary test it runs once, small, and
asserts no time.
"""

import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.distributed.conftest import start_ranks, wait_for

STEPS_BETWEEN_SAVES = 20
"""In which one snapshot is written; runs save far more rarely."""


def measure(folder: Path, *, rounds: int, steps: int, side: int) -> dict[str, Any]:
    result = folder / "times.json"
    arguments = (str(rounds), str(steps), str(side), str(result))
    started = start_ranks("tests.distributed.overhead_cases", 2, arguments=arguments, logs=folder / "logs")
    codes = wait_for(started, seconds=1800)
    assert not any(codes), "\n".join(path.read_text(errors="replace")[-3000:] for path in (folder / "logs").iterdir())
    times: dict[str, Any] = json.loads(result.read_text())
    return times


def ratios(times: dict[str, Any]) -> dict[str, float]:
    """Medians over rounds of what one way took, divided by what its neighbour in the same round took."""
    seconds = times["seconds"]
    pairs = {
        "ZeRO 0 / bare DDP": ("ZeRO 0", "bare beside ZeRO 0"),
        "ZeRO 2 / bare DDP": ("ZeRO 2", "bare beside ZeRO 2"),
        "ZeRO 2 with a save / without": ("ZeRO 2, saving", "ZeRO 2"),
    }
    return {
        name: statistics.median(one / other for one, other in zip(seconds[over], seconds[under], strict=True))
        for name, (over, under) in pairs.items()
    }


def test_the_benchmark_runs(tmp_path: Path) -> None:
    found = ratios(measure(tmp_path, rounds=1, steps=2, side=16))
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in found.values())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measured = measure(Path(place), rounds=9, steps=STEPS_BETWEEN_SAVES, side=64)
    for name, median in measured["median"].items():
        spread = [1000 * value for value in (min(measured["seconds"][name]), max(measured["seconds"][name]))]
        print(f"{name:20} {1000 * median:7.1f} ms a step (rounds {spread[0]:.1f} to {spread[1]:.1f})")
    for name, ratio in ratios(measured).items():
        print(f"{name:30} {ratio:.3f}")
