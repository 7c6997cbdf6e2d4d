"""On a GPU, training computes what it computes elsewhere: under every engine, compiled, recomputed, in bfloat16."""

import json
from typing import Any

import pytest
import torch

from tests.distributed.engine_cases import make_engine, train
from tests.distributed.engine_table import SLOW
from tests.numerics.test_golden_losses import BOUND, FILE, STAGES, losses_of
from tests.unit.batches import make_batch
from tests.unit.test_stages import COARSE, FINE, dynamics_stage, tokeniser_stage
from trainer.engine.compiled import compile_parts, parts_to_compile
from trainer.engine.precision import compute_in_bfloat16
from trainer.interfaces import Stage
from trainer.models.past import Past
from trainer.world import World

STEPS = 12
ROUNDING_OF_BFLOAT16 = 2.0**-8
"""Relative: a loss is a mean over many values, each of which is rounded so much."""
ROUNDING_OF_GAINS = 2.0**-8
"""Relative: a gain of less than 2**-9 changes no weight in bfloat16, hence all alike are too small by as much, through
encoder and decoder and then squared in the loss."""


def losses_under(gpu: World, **case: Any) -> list[float]:
    case = {**case, **SLOW}
    engine = make_engine(case, gpu)
    losses = train(engine, gpu, case, first=0, last=STEPS)["loss"]
    engine.close()
    return losses


@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_the_golden_ones(gpu: World, stage: str) -> None:
    assert losses_of(stage, gpu) == pytest.approx(json.loads(FILE.read_text())[stage], rel=BOUND)


@pytest.mark.parametrize("model", STAGES)
@pytest.mark.parametrize("case", [{"stage": 0}, {"stage": 1}, {"stage": 2}, {"stage": 3}, {"recompute": True}])
def test_sharding_and_recomputation_change_no_loss(gpu: World, model: str, case: dict[str, Any]) -> None:
    plain = losses_under(gpu, model=model, kind="plain")
    assert losses_under(gpu, model=model, **case) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("model", STAGES)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_trains_as_float32_up_to_its_rounding(gpu: World, model: str, stage: int) -> None:
    exact = losses_under(gpu, model=model, stage=stage)
    found = losses_under(gpu, model=model, stage=stage, precision="bf16")
    assert found == pytest.approx(exact, rel=ROUNDING_OF_BFLOAT16 + ROUNDING_OF_GAINS)


@pytest.mark.filterwarnings("ignore")  # what PyTorch's compiler says of PyTorch
@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("kind", ["fine", "coarse", "dynamics"])
def test_compiled_blocks_compute_what_is_written(gpu: World, kind: str, in_bfloat16: bool) -> None:
    def loss_of(is_compiled: bool) -> float:
        stage: Stage = dynamics_stage() if kind == "dynamics" else tokeniser_stage(FINE if kind == "fine" else COARSE)
        stage.module.to(gpu.device)
        if is_compiled:
            compile_parts(parts_to_compile(stage))
        if in_bfloat16:
            compute_in_bfloat16(stage.module, gpu.device)
        output = stage.module(make_batch().to(gpu.device))
        output.loss.backward()
        return float(output.loss)

    bound = ROUNDING_OF_BFLOAT16 if in_bfloat16 else 1e-5
    assert loss_of(True) == pytest.approx(loss_of(False), rel=bound)


def test_rollouts_from_cached_keys_equal_recomputed_ones(gpu: World) -> None:
    model = dynamics_stage().module.model.to(gpu.device)
    batch = make_batch(frames=5).to(gpu.device)
    with torch.no_grad():
        latents = model.tokeniser.encode(
            batch.fields, field_ids=batch.field_ids, boundary=batch.boundary, strides=((1, 2), (1, 1))
        )
        whole = model.processor(latents, batch.boundary)
        past = Past()
        steps = [model.processor(latents[:, at : at + 1], batch.boundary, past=past) for at in range(latents.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-5)
