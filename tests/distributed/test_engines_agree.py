"""One suite for every engine: the same numbers from ZeRO 0 to 3, one rank or two, and one process without DeepSpeed."""

import math
from typing import Any

import pytest

from tests.distributed.conftest import RunRanks
from tests.distributed.toy import GLOBAL_BATCH

PLAIN = {"kind": "plain"}
CASES: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "plain": PLAIN,
        "plain frozen": {**PLAIN, "frozen": True},
        "plain clipped": {**PLAIN, "optimizer": {"gradient_clip": 0.01}},
        "plain bf16": {**PLAIN, "precision": "bf16"},
        "plain accumulating 2": {**PLAIN, "accumulation": 2},
        "plain accumulating 4": {**PLAIN, "accumulation": 4},
        "plain recomputing": {**PLAIN, "recompute": True},
        "plain soap": {**PLAIN, "optimizer": {"kind": "soap"}},
        **{f"stage {stage}": {"stage": stage} for stage in range(4)},
        "stage 0 soap": {"stage": 0, "optimizer": {"kind": "soap"}},
        "stage 0 soap accumulating 2": {"stage": 0, "optimizer": {"kind": "soap"}, "accumulation": 2},
    },
    2: {
        **{f"stage {stage}": {"stage": stage} for stage in range(4)},
        **{f"stage {stage} accumulating 2": {"stage": stage, "accumulation": 2} for stage in range(4)},
        **{f"stage {stage} accumulating 4": {"stage": stage, "accumulation": 4} for stage in (0, 3)},
        **{f"stage {stage} recomputing": {"stage": stage, "recompute": True} for stage in range(4)},
        **{f"stage {stage} frozen": {"stage": stage, "frozen": True} for stage in range(4)},
        **{f"stage {stage} clipped": {"stage": stage, "optimizer": {"gradient_clip": 0.01}} for stage in range(4)},
        **{f"stage {stage} bf16": {"stage": stage, "precision": "bf16"} for stage in (1, 2, 3)},
        "stage 2 bf16 accumulating 2": {"stage": 2, "precision": "bf16", "accumulation": 2},
        "stage 0 soap": {"stage": 0, "optimizer": {"kind": "soap"}},
    },
}
SOAP_TWICE = [(1, "stage 0 soap accumulating 2"), (2, "stage 0 soap")]
"""The same sum of two halves. SOAP makes bases of directions that a gradient has not, so any other order of the sum
gives other losses in the third digit: the method's own, on one process without DeepSpeed too."""
FLOAT32 = [
    (size, name)
    for size, cases in CASES.items()
    for name in cases
    if "bf16" not in name and (size, name) not in SOAP_TWICE
]
BFLOAT16 = [(size, name) for size, cases in CASES.items() for name in cases if "bf16" in name]


def reference_of(name: str) -> str:
    """The plain case that a case must equal: same weights trained, same clipping, same optimiser."""
    kind = next((word for word in ("frozen", "clipped", "soap") if word in name), "")
    return f"plain {kind}".strip()


@pytest.fixture(scope="module")
def found(run_ranks: RunRanks) -> dict[int, dict[str, Any]]:
    results: dict[int, dict[str, Any]] = run_ranks("tests.distributed.engine_cases", CASES)
    return results


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_losses_are_those_of_one_process(found: dict[int, dict[str, Any]], size: int, name: str) -> None:
    reference = found[1][reference_of(name)]
    assert found[size][name]["loss"] == pytest.approx(reference["loss"], rel=1e-6)


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_gradient_norms_are_those_of_one_process(found: dict[int, dict[str, Any]], size: int, name: str) -> None:
    reference = found[1][reference_of(name)]
    assert found[size][name]["gradient_norm"] == pytest.approx(reference["gradient_norm"], rel=1e-6)


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_weights_and_states_are_those_of_one_process(found: dict[int, dict[str, Any]], size: int, name: str) -> None:
    reference, state = found[1][reference_of(name)]["state"], found[size][name]["state"]
    assert state.keys() == reference.keys()
    for entry, tensors in reference.items():
        assert state[entry] == pytest.approx(tensors, rel=1e-5, abs=1e-6), entry


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_predictions_are_those_of_one_process(found: dict[int, dict[str, Any]], size: int, name: str) -> None:
    assert found[size][name]["prediction"] == pytest.approx(found[1][reference_of(name)]["prediction"], rel=1e-5)


@pytest.mark.parametrize(("size", "name"), BFLOAT16)
def test_bfloat16_follows_float32(found: dict[int, dict[str, Any]], size: int, name: str) -> None:
    """bfloat16 has 8 bits: 1 part in 256 for each operation."""
    assert found[size][name]["loss"] == pytest.approx(found[1]["plain"]["loss"], rel=1e-2)


@pytest.mark.parametrize("name", ["stage 2 bf16", "stage 3 bf16"])
def test_bfloat16_stages_are_bitwise_alike(found: dict[int, dict[str, Any]], name: str) -> None:
    assert found[2][name]["loss"] == found[2]["stage 1 bf16"]["loss"]


def test_metrics_are_sums_over_counts(found: dict[int, dict[str, Any]]) -> None:
    for size, name in FLOAT32:
        assert found[size][name]["mse"] == pytest.approx(found[size][name]["loss"], rel=1e-6)


def test_soap_gives_the_same_on_one_rank_and_two(found: dict[int, dict[str, Any]]) -> None:
    (one, accumulating), (two, halved) = SOAP_TWICE
    assert found[two][halved]["loss"] == pytest.approx(found[one][accumulating]["loss"], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES[2] if "soap" not in name])
def test_the_real_engine_runs_with_our_settings(found: dict[int, dict[str, Any]], name: str) -> None:
    case = CASES[2][name]
    assert found[2][name]["settings"] == {
        "clip": case.get("optimizer", {}).get("gradient_clip", 1.0),
        "stage": case["stage"],
        "accumulation": case.get("accumulation", 1),
        "bf16": case.get("precision") == "bf16",
        "batch": GLOBAL_BATCH,
    }


def test_clipping_changes_the_run(found: dict[int, dict[str, Any]]) -> None:
    assert found[1]["plain clipped"]["loss"][-1] != pytest.approx(found[1]["plain"]["loss"][-1], rel=1e-3)


def test_training_learns(found: dict[int, dict[str, Any]]) -> None:
    for size, name in FLOAT32 + BFLOAT16:
        assert found[size][name]["loss"][-1] < found[size][name]["loss"][0], name


def test_frozen_weights_stay(found: dict[int, dict[str, Any]]) -> None:
    states = [found[2][f"stage {stage} frozen"]["state"]["first.mix.weight"] for stage in range(4)]
    assert states == [found[1]["plain frozen"]["state"]["first.mix.weight"]] * 4
    assert states[0].keys() == {"weight"}


def test_the_learning_rate_is_the_schedules(found: dict[int, dict[str, Any]]) -> None:
    cosine = [(1 + math.cos(math.pi * progress / 10)) / 2 for progress in range(5)]
    for size, name in FLOAT32:
        assert found[size][name]["learning_rate"] == pytest.approx([3e-3 * f for f in [0.5, *cosine]]), name


def test_the_portable_state_is_whole(found: dict[int, dict[str, Any]]) -> None:
    state = found[2]["stage 3"]["state"]
    assert {"scale", "offset", "second.mix.weight"} <= state.keys()
    assert "passing" not in state
    assert state["second.mix.weight"].keys() == {"weight", "exp_avg", "exp_avg_sq", "step"}
