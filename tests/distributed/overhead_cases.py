"""Times steps of ours against a bare loop of PyTorch's DistributedDataParallel: the same model, batch and optimiser.

`python -m tests.distributed.overhead_cases ROUNDS SAVES WINDOWS SIDE RESULT.json`, as one rank of the environment's
world. A round makes one step of each way in turn, so that what else the machine does meets both alike.
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.unit.batches import make_batch
from trainer.batch import Batch
from trainer.collectives import are_on_any_rank, gather_texts, process_group
from trainer.config.schema import (
    Compression,
    DynamicsStage,
    EngineConfig,
    KernelExtent,
    LevelStride,
    OptimizerConfig,
    ProcessorModel,
    TokeniserModel,
)
from trainer.engine.zero import ZeroEngine, zero_engine
from trainer.metrics.record import Record
from trainer.optimizers.build import build_optimizer
from trainer.snapshot import About, Keep, RunState, Snapshots
from trainer.stages.build import build_stage
from trainer.world import World, keep_freed_memory, world_from_environment

STEPS_BETWEEN_SAVES = 10
"""In which one snapshot is written; runs save far more rarely."""
STAGE = DynamicsStage(
    kind="dynamics",
    tokeniser=TokeniserModel(
        widths=(64,), kernels=(KernelExtent(time=1, space=8),), blocks=(2,), latent_channels=16, embedding_width=16
    ),
    processor=ProcessorModel(width=64, depth=2, num_heads=4, feed_forward=128),
    compressions=(Compression(levels=(LevelStride(time=1, space=4),)),),
)
"""The demo's dynamics."""
SETTINGS = OptimizerConfig(learning_rate=1e-3)
FRAMES, CHANNELS = 4, ("density", "energy", "momentum_x", "momentum_y", "pressure")
ABOUT = About(config="name: overhead\n", field_names=CHANNELS, space_rank=2)
Way = Callable[[int], None]
"""Makes one step; its number."""


def make_module() -> nn.Module:
    torch.manual_seed(0)
    return build_stage(STAGE, field_names=CHANNELS, space_rank=2, window_frames=FRAMES).module


def bare_way(batches: Sequence[Batch], world: World) -> Way:
    """What one writes by hand: forward, backward with DDP's reduction, clip, step."""
    warnings.filterwarnings("ignore", message="Grad strides do not match")  # of a kernel of 1 x 1
    module = make_module()
    wrapped = DistributedDataParallel(module)
    optimizer = build_optimizer(SETTINGS, module, engine=EngineConfig(kind="plain", micro_batch_size=1))
    endless = cycle(batches)

    def step(_number: int) -> None:
        wrapped(next(endless)).loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), SETTINGS.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def make_engine(stage: int, windows: int, world: World) -> ZeroEngine:
    module = make_module()
    engine = EngineConfig(zero_stage=stage, micro_batch_size=windows)
    return zero_engine(
        module,
        build_optimizer(SETTINGS, module, engine=engine),
        engine=engine,
        settings=SETTINGS,
        learning_rate=lambda step: SETTINGS.learning_rate,
        world=world,
        accumulation=1,
    )


def our_way(engine: ZeroEngine, batches: Sequence[Batch], world: World, snapshots: Snapshots | None = None) -> Way:
    """The loop's step: agreement, engine, record; with `snapshots`, one begun at each first step of a round."""
    endless = cycle(batches)
    record = Record(sum_over_ranks=lambda total: total, tokens_of=lambda batch: 1, device=world.device)

    def step(number: int) -> None:
        writing = snapshots is not None and snapshots.is_writing
        _, any_writes = are_on_any_rank([False, writing], world=world)
        if snapshots is not None and not any_writes:
            snapshots.commit()
        batch = [next(endless)]
        record.add(engine.step(batch), batch, seconds=0.0)
        if snapshots is not None and number == 0:
            snapshots.begin(engine, RunState(next(counter), 0), about=ABOUT, scores={})

    counter = iter(range(1, 10**9))
    return step


def seconds_of(way: Way, steps: int) -> tuple[float, float]:
    """Wall and processor seconds of one step, the means over these."""
    dist.barrier()
    wall, processor = time.perf_counter(), time.process_time()
    for number in range(steps):
        way(number)
    dist.barrier()
    return (time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps


def measure(
    world: World, *, rounds: int, saves: int, windows: int, side: int, folder: str
) -> dict[str, list[tuple[float, float]]]:
    batches = [
        make_batch(
            num_windows=windows, frames=FRAMES, channels=CHANNELS, space=(side, side), seed=seed + 10 * world.rank
        )
        for seed in range(3)
    ]
    times: dict[str, list[tuple[float, float]]] = {}
    for stage in (0, 2):
        engine = make_engine(stage, windows, world)
        ours = our_way(engine, batches, world)
        ways = {f"bare beside ZeRO {stage}": bare_way(batches, world), f"ZeRO {stage}": ours}
        time_in_turn(ways, times, rounds=rounds, steps=1)
        if stage == 2:
            snapshots = Snapshots(folder, keep=Keep(last=1), world=world)
            ways = {"ZeRO 2, not saving": ours, "ZeRO 2, saving": our_way(engine, batches, world, snapshots)}
            time_in_turn(ways, times, rounds=saves, steps=STEPS_BETWEEN_SAVES)
            snapshots.settle()
        engine.close()
    return times


def time_in_turn(ways: dict[str, Way], times: dict[str, list[tuple[float, float]]], *, rounds: int, steps: int) -> None:
    """Every other round goes through the ways backwards."""
    for way in ways.values():
        seconds_of(way, 2)
    for number in range(rounds):
        for name in sorted(ways, reverse=bool(number % 2)):
            times.setdefault(name, []).append(seconds_of(ways[name], steps))


def main(rounds: int, saves: int, windows: int, side: int, result: Path) -> None:
    world = world_from_environment()
    keep_freed_memory(world.device)
    torch.set_num_threads(1)
    with process_group(world, timeout_seconds=300), tempfile.TemporaryDirectory() as own:
        folder = gather_texts(own, world=world)[0]
        times = measure(world, rounds=rounds, saves=saves, windows=windows, side=side, folder=folder)
        gather_texts("done", world=world)  # before rank 0 removes the folder
    if world.is_main:
        result.write_text(json.dumps(times))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:5]), Path(sys.argv[5]))
