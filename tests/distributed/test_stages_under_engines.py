"""The two stages' own models give the same numbers under every engine, whatever is frozen or recomputed."""

import pytest

from tests.distributed.conftest import Found
from tests.distributed.engine_table import MODEL_ENGINES, MODEL_ENGINES_BF16, MODELS


@pytest.mark.parametrize("engine", MODEL_ENGINES)
@pytest.mark.parametrize("model", MODELS)
def test_losses_are_those_of_one_process(engine_runs: Found, model: str, engine: str) -> None:
    assert engine_runs[2][f"{model} {engine}"]["loss"] == pytest.approx(engine_runs[1][model]["loss"], rel=1e-5)


@pytest.mark.parametrize("engine", MODEL_ENGINES)
@pytest.mark.parametrize("model", MODELS)
def test_gradient_norms_are_those_of_one_process(engine_runs: Found, model: str, engine: str) -> None:
    expected = engine_runs[1][model]["gradient_norm"]
    assert engine_runs[2][f"{model} {engine}"]["gradient_norm"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("engine", MODEL_ENGINES_BF16)
@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_losses_are_those_of_one_process(engine_runs: Found, model: str, engine: str) -> None:
    """With float32 master weights in both; gradients are summed over ranks in bfloat16."""
    expected = engine_runs[1][f"{model} bf16"]["loss"]
    assert engine_runs[2][f"{model} {engine}"]["loss"] == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_follows_float32(engine_runs: Found, model: str) -> None:
    assert engine_runs[1][f"{model} bf16"]["loss"] == pytest.approx(engine_runs[1][model]["loss"], rel=1e-2)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns(engine_runs: Found, model: str) -> None:
    """The tokeniser has each of its two compressions once in two steps, in any order."""
    losses = engine_runs[1][model]["loss"]
    assert sum(losses[4:]) < sum(losses[:2])
