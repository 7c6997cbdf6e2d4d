"""What a training step of the larger configs costs on one GPU, beside what the GPU can do: a product of two matrices.

    python -m tests.benchmarks.test_gpu_step [NAME ...]        all ways, or those whose names begin so

Windows are random and lie on the GPU: the stream has benchmarks of its own. Prints a table in Markdown: wall time of a
step of one micro-batch (medians of `REPEATS`), windows a second, floating-point operations a second, their share of
the matrix product's, and the most memory that was taken. A tokeniser has one of its compressions. Operations are
counted as `check` counts them: blocks that are computed again count once. As an ordinary test it runs once, small, on
whatever there is, and asserts no time.
"""

import math
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.collectives import process_group
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.interfaces import Stage
from trainer.models.cost import count_flops
from trainer.run import build_engine
from trainer.stages.build import build_stage
from trainer.world import World, prepare_device, world_from_environment

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CHANNELS = ("density", "energy", "momentum_x", "momentum_y", "pressure")
REPEATS, WARMUP = 10, 4
SIDE, PRODUCT = 256, 8192


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    name: str
    config: str
    windows: int
    overrides: Mapping[str, str]


WAYS = (
    *(
        Way(
            f"{kind} base, {label}",
            f"{kind}/base.yaml",
            windows,
            {"engine.recompute": again, "engine.compile": is_compiled},
        )
        for kind, windows in (("tokeniser", 8), ("dynamics", 4))
        for label, again, is_compiled in (
            ("as written", "false", "false"),
            ("recomputed", "true", "false"),
            ("compiled", "false", "true"),
            ("compiled and recomputed", "true", "true"),
        )
    ),
    Way("tokeniser large, recomputed", "tokeniser/large.yaml", 4, {"engine.compile": "false"}),
)


@dataclass(frozen=True)
class Cost:
    """Of a step."""

    seconds: float
    flops: int
    peak_bytes: int
    """0 without a GPU."""


def make_stage(config: RunConfig, *, device: str | torch.device) -> Stage:
    with torch.device(device):
        return build_stage(config.stage, field_names=CHANNELS, space_rank=2, window_frames=config.data.longest_window)


def make_windows(config: RunConfig, *, windows: int, side: int) -> Batch:
    batch = make_batch(num_windows=windows, frames=config.data.longest_window, channels=CHANNELS, space=(side, side))
    return replace(batch, step=config.steps)  # the end of a curriculum


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Any, *, device: torch.device, repeats: int) -> float:
    """The median."""
    times = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def product_flops(device: torch.device, size: int) -> float:
    """Operations a second of a bfloat16 product of random matrices: the limit of this device."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    run = partial(torch.mm, left, right)
    run()
    return 2 * size**3 / seconds_of(run, device=device, repeats=REPEATS)


def flops_of(config: RunConfig, *, windows: int, side: int) -> int:
    """Of a step, counted without memory."""
    module = make_stage(config, device="meta").module
    batch = make_windows(config, windows=windows, side=side).to(torch.device("meta"))
    return count_flops(lambda: module(batch).loss.backward())


def measure(way: Way, *, world: World, side: int, repeats: int) -> Cost:
    chosen = {"data.batch_size": way.windows, "engine.micro_batch_size": way.windows, **way.overrides}
    config = load_yaml(CONFIGS / way.config, RunConfig, overrides=[f"{key}={value}" for key, value in chosen.items()])
    flops = flops_of(config, windows=way.windows, side=side)
    torch.manual_seed(0)
    engine = build_engine(config, make_stage(config, device=world.device), world=world)
    batch = make_windows(config, windows=way.windows, side=side).to(world.device)
    run = partial(engine.step, [batch])
    for _ in range(WARMUP if repeats > 1 else 1):
        run()
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    seconds = seconds_of(run, device=world.device, repeats=repeats)
    peak = torch.cuda.max_memory_allocated(world.device) if world.device.type == "cuda" else 0
    engine.close()
    return Cost(seconds, flops, peak)


def test_the_benchmark_runs() -> None:
    way = replace(WAYS[0], config="tokeniser/tiny.yaml", windows=1)
    with process_group(world_from_environment(), timeout_seconds=60):
        cost = measure(way, world=world_from_environment(), side=16, repeats=1)
    assert cost.flops > 0
    assert math.isfinite(cost.seconds)
    assert cost.seconds > 0


def show(ways: Iterable[Way], *, world: World) -> None:
    limit = product_flops(world.device, PRODUCT)
    print(f"{torch.cuda.get_device_name(world.device)}, torch {torch.__version__}: {limit / 1e12:.0f} TFLOP/s\n")
    print("| step | windows | ms | windows/s | TFLOP/s | of the product's | peak GB |\n|---|---|---|---|---|---|---|")
    for way in ways:
        cost = measure(way, world=world, side=SIDE, repeats=REPEATS)
        rate = cost.flops / cost.seconds
        print(
            f"| {way.name} | {way.windows} | {1000 * cost.seconds:.1f} | {way.windows / cost.seconds:.1f} "
            f"| {rate / 1e12:.0f} | {rate / limit:.2f} | {cost.peak_bytes / 1e9:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    here = world_from_environment()
    if here.device.type != "cuda":
        sys.exit("this machine has no GPU that PyTorch can use")
    prepare_device(here.device)
    wanted = [way for way in WAYS if not sys.argv[1:] or way.name.startswith(tuple(sys.argv[1:]))]
    with process_group(here, timeout_seconds=600):
        show(wanted, world=here)
