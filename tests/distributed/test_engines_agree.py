"""One suite for every engine: the same numbers from ZeRO 0 to 3, one rank or two, and one process without DeepSpeed."""

import math

import pytest

from tests.distributed.conftest import Found
from tests.distributed.engine_table import TOY
from tests.distributed.toy import GLOBAL_BATCH

SOAP_TWICE = [(1, "stage 0 soap accumulating 2"), (2, "stage 0 soap")]
"""The same sum of two halves. SOAP makes bases of directions that a gradient has not, so any other order of the sum
gives other losses in the third digit: the method's own, on one process without DeepSpeed too."""
FLOAT32 = [
    (size, name)
    for size, cases in TOY.items()
    for name in cases
    if "bf16" not in name and "poisoned" not in name and (size, name) not in SOAP_TWICE
]
BFLOAT16 = [(size, name) for size, cases in TOY.items() for name in cases if "bf16" in name and "poisoned" not in name]
POISONED = [(size, name) for size, cases in TOY.items() for name in cases if "poisoned" in name]


def reference_of(name: str) -> str:
    """The plain case that a case must equal: same weights trained, same clipping, same optimiser."""
    kind = next((word for word in ("frozen", "clipped", "soap", "muon", "averaged", "ruled") if word in name), "")
    return f"plain {kind}".strip()


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_losses_are_those_of_one_process(engine_runs: Found, size: int, name: str) -> None:
    reference = engine_runs[1][reference_of(name)]
    assert engine_runs[size][name]["loss"] == pytest.approx(reference["loss"], rel=1e-6)


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_gradient_norms_are_those_of_one_process(engine_runs: Found, size: int, name: str) -> None:
    reference = engine_runs[1][reference_of(name)]
    assert engine_runs[size][name]["gradient_norm"] == pytest.approx(reference["gradient_norm"], rel=1e-6)


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_weights_and_states_are_those_of_one_process(engine_runs: Found, size: int, name: str) -> None:
    reference, state = engine_runs[1][reference_of(name)]["state"], engine_runs[size][name]["state"]
    assert state.keys() == reference.keys()
    for entry, tensors in reference.items():
        assert state[entry] == pytest.approx(tensors, rel=1e-5, abs=1e-6), entry


@pytest.mark.parametrize(("size", "name"), FLOAT32)
def test_predictions_are_those_of_one_process(engine_runs: Found, size: int, name: str) -> None:
    assert engine_runs[size][name]["prediction"] == pytest.approx(
        engine_runs[1][reference_of(name)]["prediction"], rel=1e-5
    )


@pytest.mark.parametrize(("size", "name"), BFLOAT16)
def test_bfloat16_follows_float32(engine_runs: Found, size: int, name: str) -> None:
    """bfloat16 has 8 bits: 1 part in 256 for each operation."""
    assert engine_runs[size][name]["loss"] == pytest.approx(engine_runs[1]["plain"]["loss"], rel=1e-2)


@pytest.mark.parametrize(("size", "name"), BFLOAT16)
def test_bfloat16_losses_are_those_of_one_process(engine_runs: Found, size: int, name: str) -> None:
    """float32 master weights in all of them; gradients of ranks are summed in bfloat16."""
    assert engine_runs[size][name]["loss"] == pytest.approx(engine_runs[1]["plain bf16"]["loss"], rel=1e-3)


def test_metrics_are_sums_over_counts(engine_runs: Found) -> None:
    for size, name in FLOAT32:
        assert engine_runs[size][name]["mse"] == pytest.approx(engine_runs[size][name]["loss"], rel=1e-6)


def test_soap_gives_the_same_on_one_rank_and_two(engine_runs: Found) -> None:
    (one, accumulating), (two, halved) = SOAP_TWICE
    assert engine_runs[two][halved]["loss"] == pytest.approx(engine_runs[one][accumulating]["loss"], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in TOY[2] if "soap" not in name and "poisoned" not in name])
def test_the_real_engine_runs_with_our_settings(engine_runs: Found, name: str) -> None:
    """Stage 0 is clipped by us."""
    case = TOY[2][name]
    clip = case.get("optimizer", {}).get("gradient_clip", 1.0)
    assert engine_runs[2][name]["settings"] == {
        "clip": clip if case["stage"] > 0 else 0.0,
        "stage": case["stage"],
        "accumulation": case.get("accumulation", 1),
        "bf16": case.get("precision") == "bf16",
        "batch": GLOBAL_BATCH,
    }


@pytest.mark.parametrize(("size", "name"), POISONED)
def test_a_step_that_is_not_finite_is_left_out_on_all_ranks(engine_runs: Found, size: int, name: str) -> None:
    found = engine_runs[size][name]
    assert not math.isfinite(found["gradient_norm"][2])
    assert [math.isfinite(loss) for loss in found["loss"]] == [True, True, False, True, True, True]
    assert found["state"]["scale"]["step"] == engine_runs[1]["plain"]["state"]["scale"]["step"] * 5 / 6


@pytest.mark.parametrize("what", ["poisoned", "poisoned loss"])
@pytest.mark.parametrize("stage", range(4))
def test_after_a_step_that_was_left_out_the_run_goes_on_as_in_one_process(
    engine_runs: Found, stage: int, what: str
) -> None:
    expected = engine_runs[1][f"plain {what}"]["loss"][3:]
    assert engine_runs[2][f"stage {stage} {what}"]["loss"][3:] == pytest.approx(expected, rel=1e-6)


def test_the_average_is_that_of_the_weights_after_each_step(engine_runs: Found) -> None:
    """With decay 0.5 it lags behind what it averages."""
    plain, averaged = (engine_runs[1][name]["state"]["scale"] for name in ("plain", "plain averaged"))
    assert averaged["weight"] == plain["weight"]
    assert averaged["average"] != pytest.approx(plain["weight"], rel=1e-7)
    assert averaged["average"] == pytest.approx(plain["weight"], rel=1e-2)


def test_rules_change_the_run(engine_runs: Found) -> None:
    assert engine_runs[1]["plain ruled"]["loss"][-1] != pytest.approx(engine_runs[1]["plain"]["loss"][-1], rel=1e-4)


def test_clipping_changes_the_run(engine_runs: Found) -> None:
    assert engine_runs[1]["plain clipped"]["loss"][-1] != pytest.approx(engine_runs[1]["plain"]["loss"][-1], rel=1e-3)


def test_training_learns(engine_runs: Found) -> None:
    for size, name in FLOAT32 + BFLOAT16:
        assert engine_runs[size][name]["loss"][-1] < engine_runs[size][name]["loss"][0], name


def test_frozen_weights_stay(engine_runs: Found) -> None:
    states = [engine_runs[2][f"stage {stage} frozen"]["state"]["first.mix.weight"] for stage in range(4)]
    assert states == [engine_runs[1]["plain frozen"]["state"]["first.mix.weight"]] * 4
    assert states[0].keys() == {"weight"}


def test_the_learning_rate_is_the_schedules(engine_runs: Found) -> None:
    cosine = [(1 + math.cos(math.pi * progress / 10)) / 2 for progress in range(5)]
    for size, name in FLOAT32:
        assert engine_runs[size][name]["learning_rate"] == pytest.approx([3e-3 * f for f in [0.5, *cosine]]), name


def test_the_portable_state_is_whole(engine_runs: Found) -> None:
    state = engine_runs[2]["stage 3"]["state"]
    assert {"scale", "offset", "second.mix.weight"} <= state.keys()
    assert "passing" not in state
    assert state["second.mix.weight"].keys() == {"weight", "exp_avg", "exp_avg_sq", "step"}
