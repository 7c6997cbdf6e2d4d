"""What DeepSpeed is told, read back from its own parser."""

import logging
from pathlib import Path
from typing import Any

import pytest

from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.engine.deepspeed_door import import_deepspeed
from trainer.engine.zero_config import zero_config
from trainer.world import prepare_libraries, world_from_environment

STAGES = [(0, "fp32"), *((stage, precision) for stage in (1, 2, 3) for precision in ("fp32", "bf16"))]


@pytest.fixture(scope="module")
def deepspeed() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        patch.setenv("DS_ACCELERATOR", "cpu")
        prepare_libraries(world_from_environment({}))
        yield import_deepspeed()


def make_config(stage: int = 2, *, precision: str = "fp32", clip: float = 0.5) -> dict[str, Any]:
    engine = EngineConfig(zero_stage=stage, precision=precision, micro_batch_size=2)
    return zero_config(engine, OptimizerConfig(gradient_clip=clip), world_size=1, accumulation=3)


def parse(deepspeed: Any, config: dict[str, Any]) -> Any:
    return deepspeed.DeepSpeedConfig(config)


@pytest.mark.parametrize(("stage", "precision"), STAGES)
def test_deepspeed_reads_what_was_meant(deepspeed: Any, stage: int, precision: str) -> None:
    parsed = parse(deepspeed, make_config(stage, precision=precision))
    assert parsed.zero_optimization_stage == stage
    assert parsed.bfloat16_config.enabled == (precision == "bf16")
    assert (parsed.train_batch_size, parsed.train_micro_batch_size_per_gpu) == (6, 2)
    assert parsed.gradient_accumulation_steps == 3
    assert not parsed.float16_config.enabled
    assert not parsed.torch_autocast_enabled


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_clipping_is_ours_and_never_deepspeeds_default(deepspeed: Any, clip: float) -> None:
    assert parse(deepspeed, make_config(clip=clip)).gradient_clipping == clip


def test_every_key_of_the_sharding_section_is_written(deepspeed: Any) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    known = {
        field.alias or name
        for name, field in DeepSpeedZeroConfig.model_fields.items()
        if not (field.json_schema_extra or {}).get("deprecated")
    }
    assert make_config()["zero_optimization"].keys() == known


@pytest.mark.parametrize(("offload", "weights"), [("optimizer", False), ("optimizer_and_weights", True)])
def test_every_key_of_what_is_offloaded_is_written(deepspeed: Any, offload: str, weights: bool) -> None:
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig as OfOptimizer
    from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadParamConfig as OfWeights

    engine = EngineConfig(zero_stage=3, offload=offload, micro_batch_size=2)
    config = zero_config(engine, OptimizerConfig(), world_size=1, accumulation=1)
    section = config["zero_optimization"]
    assert section["offload_optimizer"].keys() == set(OfOptimizer.model_fields)
    assert (section["offload_param"] or {}).keys() == (set(OfWeights.model_fields) if weights else set())
    assert parse(deepspeed, config).zero_config.offload_optimizer.device == "cpu"


def test_every_key_of_the_bfloat16_section_is_written(deepspeed: Any) -> None:
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config

    assert make_config()["bf16"].keys() == set(DeepSpeedBF16Config.model_fields)


def test_no_key_is_unknown_to_deepspeed(deepspeed: Any) -> None:
    """DeepSpeed ignores unknown keys at the top, so its sources are asked."""
    sources = "\n".join(path.read_text() for path in Path(deepspeed.__file__).parent.rglob("*.py"))
    unknown = [key for key in make_config() if f'"{key}"' not in sources and f"'{key}'" not in sources]
    assert unknown == []


def test_deepspeed_has_no_optimiser_and_no_schedule(deepspeed: Any) -> None:
    parsed = parse(deepspeed, make_config())
    assert (parsed.optimizer_name, parsed.scheduler_name) == (None, None)


def test_deepspeed_speaks_of_errors_alone(deepspeed: Any) -> None:
    assert logging.getLogger("DeepSpeed").level == logging.ERROR


def test_no_operator_is_compiled(deepspeed: Any) -> None:
    assert deepspeed.ops.__compatible_ops__ == {}
