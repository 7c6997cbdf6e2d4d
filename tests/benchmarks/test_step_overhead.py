"""What a step of ours costs beside a bare hand-written loop of PyTorch's DDP, and what a save beside it adds.

    python -m tests.benchmarks.test_step_overhead        the demo's dynamics on 64x64, two ranks, one thread each

Prints medians over pairs of neighbouring steps, of wall time and of processor time; the second says what it costs where
other work shares the cores. What we add to a step does not grow with the batch, so it is measured at the demo's, of two
windows a rank, and at twice that. As an ordinary test it runs once, small, and asserts no time.
"""

import json
import math
import statistics
import tempfile
from pathlib import Path

from tests.distributed.conftest import start_ranks, wait_for

Times = dict[str, list[list[float]]]
"""Way -> for each round, wall and processor seconds of a step."""


def measure(folder: Path, *, rounds: int, saves: int, windows: int, side: int) -> Times:
    """`rounds` pairs of steps; `saves` pairs of ten steps; `windows` of a rank."""
    result = folder / "times.json"
    arguments = (*(str(number) for number in (rounds, saves, windows, side)), str(result))
    started = start_ranks("tests.distributed.overhead_cases", 2, arguments=arguments, logs=folder / "logs")
    codes = wait_for(started, seconds=1800)
    assert not any(codes), "\n".join(path.read_text(errors="replace")[-3000:] for path in (folder / "logs").iterdir())
    times: Times = json.loads(result.read_text())
    return times


def ratios(times: Times, kind: int) -> dict[str, float]:
    """Medians over rounds of what one way took, divided by what its neighbour in the same round took.

    `kind`: 0 for wall, 1 for processor time.
    """
    pairs = {
        "ZeRO 0 / bare DDP": ("ZeRO 0", "bare beside ZeRO 0"),
        "ZeRO 2 / bare DDP": ("ZeRO 2", "bare beside ZeRO 2"),
        "ZeRO 2 with a save / without": ("ZeRO 2, saving", "ZeRO 2, not saving"),
    }
    return {
        name: statistics.median(one[kind] / other[kind] for one, other in zip(times[over], times[under], strict=True))
        for name, (over, under) in pairs.items()
    }


def test_the_benchmark_runs(tmp_path: Path) -> None:
    times = measure(tmp_path, rounds=2, saves=1, windows=1, side=16)
    found = [ratio for kind in (0, 1) for ratio in ratios(times, kind).values()]
    assert len(found) == 6
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in found)


def show(times: Times, *, windows: int) -> None:
    for kind, what in enumerate(("wall", "processor")):
        print(f"\n{windows} windows a rank, {what} time")
        for name, rounds in times.items():
            steps = sorted(1000 * seconds[kind] for seconds in rounds)
            middle = steps[len(steps) // 4], steps[-len(steps) // 4]
            print(
                f"{name:24} {statistics.median(steps):7.1f} ms a step (half of all: {middle[0]:.1f} to {middle[1]:.1f})"
            )
        for name, ratio in ratios(times, kind).items():
            print(f"{name:30} {ratio:.3f}")


if __name__ == "__main__":
    for windows in (2, 4):
        with tempfile.TemporaryDirectory() as place:
            show(measure(Path(place), rounds=60, saves=8, windows=windows, side=64), windows=windows)
