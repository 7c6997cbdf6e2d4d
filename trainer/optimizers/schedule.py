"""The learning rate as a pure function of the step: nothing to save, nothing to get out of step on resume.

Used by the engines before every optimiser step. Imports no torch.
"""

import math

from trainer.config.schema import OptimizerConfig, ScheduleConfig


def learning_rate(config: OptimizerConfig, step: int, *, steps: int) -> float:
    """The rate of the optimiser step that follows `step` finished ones, in a run of `steps`."""
    return config.learning_rate * factor(config.schedule, step, steps=steps)


def factor(schedule: ScheduleConfig, step: int, *, steps: int) -> float:
    """The share of the peak rate, 0 to 1.

    The warm-up rises by equal amounts from 0 (which is never used) and reaches the peak at its last step.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.kind == "cosine":
        return _cosine(schedule, step, steps=steps)
    if schedule.kind == "inverse_sqrt":
        return _inverse_sqrt(schedule, step, steps=steps)
    return 1.0


def _cosine(schedule: ScheduleConfig, step: int, *, steps: int) -> float:
    """Half a period from the end of the warm-up; `final_factor` at the last step (Loshchilov and Hutter 2017)."""
    first, last = max(schedule.warmup_steps - 1, 0), steps - 1
    progress = min((step - first) / max(last - first, 1), 1.0)
    return schedule.final_factor + (1 - schedule.final_factor) * (1 + math.cos(math.pi * progress)) / 2


def _inverse_sqrt(schedule: ScheduleConfig, step: int, *, steps: int) -> float:
    """Falls like 1 / sqrt(step); over the last `cooldown_steps` in a straight line to `final_factor`.

    Up to the cool-down it does not depend on the length of the run, so a run can be prolonged from a snapshot
    before it (Zhai et al. 2022, section 3.5).
    """
    decay_ends = steps - schedule.cooldown_steps
    value = _root(schedule, min(step, max(decay_ends - 1, 0)))
    if step < decay_ends:
        return value
    progress = (step - decay_ends + 1) / schedule.cooldown_steps
    return value + (schedule.final_factor - value) * min(progress, 1.0)


def _root(schedule: ScheduleConfig, step: int) -> float:
    return math.sqrt(max(schedule.warmup_steps, 1) / max(step + 1, schedule.warmup_steps, 1))
