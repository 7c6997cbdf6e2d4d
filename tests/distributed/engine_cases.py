"""Trains the toy under many engines, one after the other in the same processes, and writes what came out.

`python -m tests.distributed.engine_cases CASES.json RESULT.json`, as one rank of the environment's world.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests.distributed.real_stages import make_stage, stage_batches
from tests.distributed.toy import GLOBAL_BATCH, Block, make_toy, micro_batches
from trainer.collectives import process_group, sum_over_ranks
from trainer.config.schema import EngineConfig, OptimizerConfig, ScheduleConfig
from trainer.engine.plain import PlainEngine, plain_engine
from trainer.engine.recompute import recompute
from trainer.engine.zero import ZeroEngine, zero_engine
from trainer.models.blocks import ProcessorBlock, ResidualBlock
from trainer.models.outermost import outermost
from trainer.optimizers.build import build_optimizer
from trainer.optimizers.schedule import learning_rate
from trainer.world import World, world_from_environment

STEPS = 6
SMALL = 10_000
"""Elements of the largest weights that stage 3 leaves whole here, so that it shards those of small models."""
Case = dict[str, Any]
AnyEngine = PlainEngine | ZeroEngine


def make_engine(case: Case, world: World) -> AnyEngine:
    """`case`: model, trainable, frozen, seed; kind, stage, precision, accumulation, recompute, offload; `optimizer`:
    changes of its section; `steps` of the run; `poisoned`: the step at which one rank's fields are infinite;
    `broken`: that at which its last micro-batch has a loss that is not finite, but gradients that are."""
    accumulation = case.get("accumulation", 1)
    config = EngineConfig(
        kind=case.get("kind", "zero"),
        zero_stage=case.get("stage", 2),
        precision=case.get("precision", "fp32"),
        micro_batch_size=GLOBAL_BATCH // world.size // accumulation,
        offload=case.get("offload", "none"),
    )
    schedule = ScheduleConfig(kind="cosine", warmup_steps=2)
    changes = {"learning_rate": 3e-3, "weight_decay": 0.1, "schedule": schedule} | case.get("optimizer", {})
    settings = OptimizerConfig.model_validate(changes, strict=False)  # JSON knows no tuples
    module = make_module(case).to(world.device)
    if case.get("recompute"):
        blocks = outermost(module, (Block, ResidualBlock, ProcessorBlock))
        assert len(blocks) >= 2
        recompute(blocks)
    build = plain_engine if config.kind == "plain" else zero_engine
    with patch("trainer.engine.zero_config.PERSISTENT_ELEMENTS", SMALL):
        return build(
            module,
            build_optimizer(settings, module, engine=config),
            engine=config,
            settings=settings,
            learning_rate=lambda step: learning_rate(settings, step, steps=2 * case.get("steps", STEPS)),
            world=world,
            accumulation=accumulation,
        )


def make_module(case: Case) -> nn.Module:
    seed = case.get("seed", 7)
    if case.get("model", "toy") == "toy":
        return make_toy(frozen=case.get("frozen", False), seed=seed)
    return make_stage(case["model"], trainable=case.get("trainable", "all"), seed=seed)


def train(engine: AnyEngine, world: World, case: Case, *, first: int, last: int) -> dict[str, list[float]]:
    """What the loop would report of the global batches `first` to `last` - 1."""
    make_batches = stage_batches if "model" in case else micro_batches
    accumulation = case.get("accumulation", 1)
    history: dict[str, list[float]] = {"loss": [], "mse": [], "gradient_norm": [], "learning_rate": []}
    for step in range(first, last):
        batches = make_batches(step, rank=world.rank, world_size=world.size, accumulation=accumulation)
        if case.get("poisoned") == step and world.is_main:
            batches[0] = replace(batches[0], fields=batches[0].fields / 0)
        if case.get("broken") == step and world.is_main:
            batches[-1] = replace(batches[-1], scale=batches[-1].scale / 0)
        result = engine.step(batches)
        for name in ("loss", "mse"):
            total = sum_over_ranks(torch.stack([result.sums[name].double(), result.counts[name].double()]))
            history[name].append(float(total[0] / total[1]))
        history["gradient_norm"].append(float(result.gradient_norm))
        history["learning_rate"].append(engine.learning_rate)
    return history


def fingerprint(tensor: Tensor) -> float:
    """A number that another value, or the same values elsewhere, would change."""
    flat = tensor.double().flatten()
    return float(flat @ torch.linspace(1, 2, flat.numel(), dtype=torch.float64)) + float(flat.abs().sum())


def state_of(engine: AnyEngine) -> dict[str, dict[str, float]]:
    """The portable state by fingerprints."""
    return {name: {key: fingerprint(value) for key, value in tensors.items()} for name, tensors in engine.entries()}


def predict(engine: AnyEngine, case: Case) -> float:
    """Evaluation through the engine's module, on all ranks alike."""
    make_batches = stage_batches if "model" in case else micro_batches
    batch = make_batches(99, rank=0, world_size=1, accumulation=1)[0]
    with torch.no_grad():
        frames = fingerprint(engine.module(batch, predict=True))
        if case.get("model") == "dynamics":
            frames += fingerprint(engine.module(batch, rollout=(1, 2)))
        return frames


def run_case(case: Case, world: World) -> dict[str, Any]:
    engine = make_engine(case, world)
    before = train(engine, world, case, first=0, last=STEPS // 2)
    with engine.averages():
        prediction = predict(engine, case)  # an evaluation amid training must leave no trace
    after = train(engine, world, case, first=STEPS // 2, last=STEPS)
    history = {name: before[name] + after[name] for name in before}
    found = {**history, "state": state_of(engine), "prediction": prediction, "settings": settings_of(engine)}
    engine.close()
    return found


def settings_of(engine: AnyEngine) -> dict[str, Any]:
    """What a real DeepSpeed engine says that it runs with."""
    if isinstance(engine, PlainEngine):
        return {}
    real = engine._engine
    return {
        "clip": real.gradient_clipping(),
        "stage": real.zero_optimization_stage(),
        "accumulation": real.gradient_accumulation_steps(),
        "bf16": real.bfloat16_enabled(),
        "batch": real.train_batch_size(),
    }


def main(asked: Path, result: Path) -> None:
    world = world_from_environment()
    cases: dict[str, Case] = json.loads(asked.read_text())
    with process_group(world, timeout_seconds=100):
        found = {name: run_case(case, world) for name, case in cases.items()}
    if world.is_main:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
