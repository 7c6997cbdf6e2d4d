"""The learning rate over steps, and what decays."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.config.schema import EngineConfig, OptimizerConfig, ParameterRule, ScheduleConfig
from trainer.errors import ConfigError, RefusedError
from trainer.interfaces import RATE_FACTOR
from trainer.optimizers.build import build_optimizer
from trainer.optimizers.groups import freeze, parameter_groups
from trainer.optimizers.schedule import factor, learning_rate


def factors(schedule: ScheduleConfig, *, steps: int) -> list[float]:
    return [factor(schedule, step, steps=steps) for step in range(steps)]


@st.composite
def schedules(draw: st.DrawFn) -> tuple[ScheduleConfig, int]:
    steps = draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["constant", "cosine", "inverse_sqrt"]))
    warmup = draw(st.integers(0, steps))
    cooldown = draw(st.integers(0, steps - warmup)) if kind == "inverse_sqrt" else 0
    final = draw(st.floats(0, 1))
    return ScheduleConfig(kind=kind, warmup_steps=warmup, cooldown_steps=cooldown, final_factor=final), steps


@given(schedules())
def test_factors_are_between_0_and_1(case: tuple[ScheduleConfig, int]) -> None:
    schedule, steps = case
    assert all(0 <= value <= 1 for value in factors(schedule, steps=steps))


@given(schedules())
def test_after_the_warm_up_and_before_the_cool_down_factors_never_rise(case: tuple[ScheduleConfig, int]) -> None:
    schedule, steps = case
    middle = factors(schedule, steps=steps)[schedule.warmup_steps : steps - schedule.cooldown_steps]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(middle))


@given(schedules())
def test_the_warm_up_rises_evenly_to_the_peak(case: tuple[ScheduleConfig, int]) -> None:
    schedule, steps = case
    warmup = schedule.warmup_steps
    assert factors(schedule, steps=steps)[:warmup] == pytest.approx([(n + 1) / warmup for n in range(warmup)])


def test_cosine_ends_at_the_final_factor() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_steps=3, final_factor=0.1)
    assert factors(schedule, steps=20)[-1] == pytest.approx(0.1)


def test_cosine_is_halfway_in_the_middle() -> None:
    assert factors(ScheduleConfig(kind="cosine"), steps=11)[5] == pytest.approx(0.5)


def test_inverse_sqrt_halves_at_four_times_the_warm_up() -> None:
    schedule = ScheduleConfig(kind="inverse_sqrt", warmup_steps=10)
    assert factors(schedule, steps=40)[39] == pytest.approx(0.5)


def test_inverse_sqrt_cools_down_in_a_straight_line() -> None:
    schedule = ScheduleConfig(kind="inverse_sqrt", warmup_steps=4, cooldown_steps=4, final_factor=0.0)
    last_root = (4 / 16) ** 0.5
    assert factors(schedule, steps=20)[15:] == pytest.approx([last_root * left / 4 for left in (4, 3, 2, 1, 0)])


def test_inverse_sqrt_does_not_depend_on_the_length_of_the_run() -> None:
    schedule = ScheduleConfig(kind="inverse_sqrt", warmup_steps=4, cooldown_steps=5)
    assert factors(schedule, steps=20)[:15] == factors(schedule, steps=60)[:15]


def test_constant_stays_at_the_peak() -> None:
    assert factors(ScheduleConfig(kind="constant"), steps=5) == [1.0] * 5


def test_the_learning_rate_is_the_peak_times_the_factor() -> None:
    config = OptimizerConfig(learning_rate=0.2, schedule=ScheduleConfig(kind="cosine", warmup_steps=4))
    assert learning_rate(config, 1, steps=10) == pytest.approx(0.1)


def make_module() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.LayerNorm(4), nn.Linear(4, 4))


def test_matrices_and_kernels_decay_and_vectors_do_not() -> None:
    decaying, still = parameter_groups(make_module(), weight_decay=0.1)
    assert (decaying["weight_decay"], [p.ndim for p in decaying["params"]]) == (0.1, [4, 2])
    assert (still["weight_decay"], [p.ndim for p in still["params"]]) == (0.0, [1, 1, 1, 1])


def test_groups_hold_trained_parameters_alone() -> None:
    module = make_module()
    freeze(module, lambda name: name == "2.weight")
    (group,) = parameter_groups(module, weight_decay=0.1)
    assert group["params"] == [module.get_parameter("2.weight")]


@pytest.mark.parametrize("pattern", ["model.2.*", "2.*", "*2.weight"])
def test_the_first_rule_that_names_a_parameter_rules_it(pattern: str) -> None:
    """By the whole name, or by the one that `check` prints."""
    module = nn.ModuleDict({"model": make_module()})
    rules = [ParameterRule(parameters=(pattern,), learning_rate_factor=0.1), ParameterRule(parameters=("*",))]
    groups = parameter_groups(module, weight_decay=0.1, rules=rules)
    slow = [parameter for group in groups if group[RATE_FACTOR] == 0.1 for parameter in group["params"]]
    assert any(parameter is module.get_parameter("model.2.weight") for parameter in slow)
    assert len(slow) == (1 if pattern == "*2.weight" else 2)
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_a_rule_that_rules_nothing_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"optimizer\.rules: 3\.\* matches no trained parameter"):
        parameter_groups(make_module(), weight_decay=0.1, rules=[ParameterRule(parameters=("3.*",))])


def test_training_nothing_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"stage\.trainable"):
        freeze(make_module(), lambda name: False)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_soap_is_refused_where_weights_are_sliced(stage: int) -> None:
    config = EngineConfig(zero_stage=stage, micro_batch_size=1)
    with pytest.raises(ConfigError, match=r"engine\.zero_stage=0"):
        build_optimizer(OptimizerConfig(kind="soap"), make_module(), engine=config)
