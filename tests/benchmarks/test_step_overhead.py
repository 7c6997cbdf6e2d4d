"""What a step of ours costs beside a bare hand-written loop of PyTorch's DDP, and what a save beside it adds.

    python -m tests.benchmarks.test_step_overhead        the demo's dynamics on 64x64, two ranks, one thread each

Prints medians over rounds that alternate between the ways, of wall time and of processor time; the second says what it
costs where other work shares the cores. As an ordinary test it runs once, small, and asserts no time.
"""

import json
import math
import statistics
import tempfile
from pathlib import Path

from tests.distributed.conftest import start_ranks, wait_for

STEPS_BETWEEN_SAVES = 10
"""In which one snapshot is written; runs save far more rarely."""


Times = dict[str, list[list[float]]]
"""Way -> for each round, wall and processor seconds of a step."""


def measure(folder: Path, *, rounds: int, steps: int, side: int) -> Times:
    result = folder / "times.json"
    arguments = (str(rounds), str(steps), str(side), str(result))
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
        "ZeRO 2 with a save / without": ("ZeRO 2, saving", "ZeRO 2"),
    }
    return {
        name: statistics.median(one[kind] / other[kind] for one, other in zip(times[over], times[under], strict=True))
        for name, (over, under) in pairs.items()
    }


def test_the_benchmark_runs(tmp_path: Path) -> None:
    times = measure(tmp_path, rounds=1, steps=2, side=16)
    found = [ratio for kind in (0, 1) for ratio in ratios(times, kind).values()]
    assert len(found) == 6
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in found)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measured = measure(Path(place), rounds=7, steps=STEPS_BETWEEN_SAVES, side=64)
    for kind, what in enumerate(("wall", "processor")):
        for name, rounds in measured.items():
            times = sorted(1000 * seconds[kind] for seconds in rounds)
            spread = f"rounds {times[0]:.1f} to {times[-1]:.1f}"
            print(f"{what:10} {name:20} {statistics.median(times):7.1f} ms a step ({spread})")
        for name, ratio in ratios(measured, kind).items():
            print(f"{what:10} {name:30} {ratio:.3f}")
