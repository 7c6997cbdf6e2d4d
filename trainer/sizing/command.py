"""The verb itself: config -> subject -> a table on stderr, JSON on stdout."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from trainer.config.schema import RunConfig
from trainer.errors import DONE, INTERRUPTED
from trainer.preemption import Notice
from trainer.sizing.forecast import forecast, forecast_table, parse_cluster
from trainer.sizing.rate import measure_rate, rate_table
from trainer.sizing.subject import Subject
from trainer.world import World, world_from_environment

BATCHES, BATCHES_OF_A_FORECAST = 50, 10
"""Where the command line names no number; a cluster's are thousands of windows each."""
STEP_SECONDS_OF_A_FORECAST = 1.0
"""Where none are given: rates are then those of one step."""


@dataclass(frozen=True)
class Wishes:
    """What the command line says beside the config."""

    batches: int | None
    step_seconds: float | None
    simulate: str | None
    """The cluster; None measures here."""


def stream_run(config: RunConfig, notice: Notice, wishes: Wishes) -> int:
    """Gives the exit code. Ctrl-C ends it early, with what there is by then."""
    world = world_from_environment()
    found, text = (
        _forecast(config, notice, wishes) if wishes.simulate is not None else _measure(config, notice, wishes, world)
    )
    if world.is_main:
        print(text, file=sys.stderr)
        print(json.dumps(found, indent=2))
    return DONE if found["is_complete"] else INTERRUPTED


def _measure(config: RunConfig, notice: Notice, wishes: Wishes, world: World) -> tuple[dict[str, Any], str]:
    """The report, and the table of it."""
    found = measure_rate(
        _subject(config, wishes, batches=BATCHES, step_seconds=0.0),
        world=world,
        timeout_seconds=config.engine.collective_timeout_seconds,
        is_stopped=lambda: notice.has_come,
    )
    return found, rate_table(found)


def _forecast(config: RunConfig, notice: Notice, wishes: Wishes) -> tuple[dict[str, Any], str]:
    found = forecast(
        _subject(config, wishes, batches=BATCHES_OF_A_FORECAST, step_seconds=STEP_SECONDS_OF_A_FORECAST),
        parse_cluster(wishes.simulate or ""),
        steps=config.steps,
        is_stopped=lambda: notice.has_come,
    )
    return found, forecast_table(found, threads=config.data.threads, has_cache=config.data.cache is not None)


def _subject(config: RunConfig, wishes: Wishes, *, batches: int, step_seconds: float) -> Subject:
    """With these defaults for what was not wished for."""
    return Subject(
        data=config.data,
        seed=config.seed,
        micro_batch_size=config.engine.micro_batch_size,
        batches=wishes.batches or batches,
        step_seconds=wishes.step_seconds or step_seconds,
    )
