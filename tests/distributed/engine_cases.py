"""Trains the toy under many engines in one process per rank, and writes what came out.

`python -m tests.distributed.engine_cases RESULT.json`, as one rank of the world that the environment names.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.distributed.toy import GLOBAL_BATCH, Block, make_toy, micro_batches
from trainer.collectives import process_group
from trainer.config.schema import EngineConfig, OptimizerConfig, ScheduleConfig
from trainer.engine.plain import PlainEngine, plain_engine
from trainer.engine.recompute import recompute
from trainer.engine.zero import ZeroEngine, zero_engine
from trainer.optimizers.build import build_optimizer
from trainer.optimizers.schedule import learning_rate
from trainer.world import World, world_from_environment

STEPS = 6
ENGINES = {"plain": plain_engine, "zero": zero_engine}


def optimizer_config(**changes: Any) -> OptimizerConfig:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=2)
    return OptimizerConfig(**{"learning_rate": 3e-3, "weight_decay": 0.1, "schedule": schedule, **changes})


def make_engine(case: dict[str, Any], world: World, *, steps: int = STEPS) -> PlainEngine | ZeroEngine:
    accumulation = case.get("accumulation", 1)
    engine = EngineConfig(
        kind=case.get("kind", "zero"),
        zero_stage=case.get("stage", 2),
        precision=case.get("precision", "fp32"),
        micro_batch_size=GLOBAL_BATCH // world.size // accumulation,
    )
    settings = optimizer_config(**case.get("optimizer", {}))
    toy = make_toy(frozen=case.get("frozen", False)).to(world.device)
    if case.get("recompute"):
        assert recompute(toy, (Block,)) == 2
    return ENGINES[engine.kind](
        toy,
        build_optimizer(settings, toy, engine=engine),
        engine=engine,
        settings=settings,
        learning_rate=lambda step: learning_rate(settings, step, steps=steps),
        world=world,
        accumulation=accumulation,
    )


def train(engine: PlainEngine | ZeroEngine, world: World, *, first: int, last: int, accumulation: int = 1) -> dict[str, list[float]]:
    """Losses, metrics and gradient norms of the global batches, as the loop would reduce them."""
    history: dict[str, list[float]] = {"loss": [], "mse": [], "gradient_norm": [], "learning_rate": []}
    for step in range(first, last):
        result = engine.step(micro_batches(step, rank=world.rank, world_size=world.size, accumulation=accumulation))
        for name in ("loss", "mse"):
            pair = torch.stack([result.sums[name].double(), result.counts[name].double()])
            dist.all_reduce(pair)
            history[name].append(float(pair[0] / pair[1]))
        history["gradient_norm"].append(float(result.gradient_norm))
        history["learning_rate"].append(engine.learning_rate)
    return history


def summary(engine: PlainEngine | ZeroEngine) -> dict[str, dict[str, float]]:
    """Each tensor of the portable state by two numbers that would show a wrong element."""
    found = {}
    for name, tensors in engine.entries():
        found[name] = {key: float(value.double().flatten() @ torch.linspace(1, 2, value.numel(), dtype=torch.float64)) for key, value in tensors.items()}
    return found


def main(result: Path, cases: dict[str, dict[str, Any]]) -> None:
    world = world_from_environment()
    found = {}
    with process_group(world, timeout_seconds=60):
        for name, case in cases.items():
            engine = make_engine(case, world)
            found[name] = train(engine, world, first=0, last=STEPS, accumulation=case.get("accumulation", 1))
            found[name]["entries"] = summary(engine)
            engine.close()
    if world.is_main:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
