"""A run whose ranks are killed at random moments, saving included, ends with the weights of one that never was.

    python -m tests.benchmarks.test_chaos        30 kills of a random one of 2 ranks under ZeRO-2; about 10 minutes

A snapshot is due at every second step, so that most moments lie in a save. As an ordinary test: one kill of one rank.
"""

import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.integration.practice import eventually
from tests.integration.tiny_run import write_tiny_run
from tests.integration.trainings import Workshop, same_state

LONGEST_SECONDS = 1.0
"""After a life's first step, within which it is killed."""
LONGEST_RUN_SECONDS = 1800.0
"""A hang, not a slow machine."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    kills: int
    amid_a_save: int
    """Kills that left a snapshot without its manifest."""
    survivors: tuple[int, ...]
    """Exit codes of the ranks that were not killed."""
    is_equal: bool
    """Weights and optimiser states of the last snapshot against those of the unbroken run, bit for bit."""


def chaos(
    folder: Path,
    *,
    kills: int,
    ranks: int,
    steps: int,
    seed: int,
    longest_seconds: float = LONGEST_SECONDS,
    settings: tuple[str, ...] = (),
) -> Outcome:
    moments = random.Random(seed)
    write_tiny_run(folder, name="tiny", targets=folder / "targets", steps=steps)
    workshop = Workshop(folder)
    command = ("trainer", "train", "tiny.yaml", "snapshots.every_steps=2", "evaluation.every_steps=0", *settings)
    workshop.finish(*command, "output=unbroken", size=ranks, within_seconds=LONGEST_RUN_SECONDS)
    torn, survivors = 0, []
    for _ in range(kills):
        survivors += _live_and_die(
            workshop, command, ranks=ranks, wait_seconds=moments.uniform(0, longest_seconds), moments=moments
        )
        torn += any(not (path / "manifest.json").exists() for path in (folder / "broken/snapshots").glob("step-*"))
    assert len(workshop.losses("broken")) < steps, "it must not be over before all kills; raise `steps`"
    workshop.finish(*command, "output=broken", size=ranks, within_seconds=LONGEST_RUN_SECONDS)
    assert list(workshop.losses("broken")) == list(range(1, steps + 1)), "each step is logged once"
    is_equal = same_state(workshop.state("broken"), workshop.state("unbroken"))
    return Outcome(kills, torn, tuple(survivors), is_equal)


def _live_and_die(
    workshop: Workshop, command: tuple[str, ...], *, ranks: int, wait_seconds: float, moments: random.Random
) -> list[int]:
    """One life of the run, to the kill of one rank. The exit codes of the others."""
    before = len(workshop.lines("broken"))
    with workshop.ranks(*command, "output=broken", size=ranks) as running:
        eventually(
            lambda: len(workshop.lines("broken")) > before or any(rank.process.poll() is not None for rank in running),
            what="the run goes on",
            within_seconds=180,
        )
        time.sleep(wait_seconds)
        victim = moments.choice(running)
        victim.process.kill()
        return [rank.end().code for rank in running if rank is not victim]


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    settings = ("engine.kind=plain", "metrics.prometheus_port=null")
    assert chaos(tmp_path, kills=1, ranks=1, steps=100, seed=1, longest_seconds=0.3, settings=settings).is_equal


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        outcome = chaos(Path(place), kills=30, ranks=2, steps=1500, seed=0)
    print(outcome)
    sys.exit(not outcome.is_equal or 0 in outcome.survivors)
