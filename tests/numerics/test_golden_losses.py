"""The losses of the first steps of both stages are those of the file: a change of numerics is meant, or a mistake.

    python -m tests.numerics.test_golden_losses        writes tests/numerics/golden_losses.json anew

The plain engine in float32, seeded weights and seeded batches; 20 steps amplify what an operator of another machine or
version rounds otherwise, which BOUND leaves room for. The other engines equal this one: tests/distributed.
"""

import json
from pathlib import Path

import pytest
import torch

from tests.distributed.engine_cases import make_engine, train
from tests.distributed.engine_table import SLOW
from trainer.world import World

FILE = Path(__file__).with_name("golden_losses.json")
BOUND = 1e-4
"""Relative."""
STEPS = 20
STAGES = ("tokeniser", "dynamics")
ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"), backend="gloo")


def losses_of(stage: str, world: World = ALONE) -> list[float]:
    case = {"model": stage, "kind": "plain", "steps": STEPS, **SLOW}
    return train(make_engine(case, world), world, case, first=0, last=STEPS)["loss"]


@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_the_golden_ones(stage: str) -> None:
    golden = json.loads(FILE.read_text())
    assert losses_of(stage) == pytest.approx(golden[stage], rel=BOUND), (
        "numbers have changed; if that was meant, run `python -m tests.numerics.test_golden_losses`, and say so in "
        "the commit"
    )


if __name__ == "__main__":
    FILE.write_text(json.dumps({stage: losses_of(stage) for stage in STAGES}, indent=1) + "\n")
    print(f"wrote {FILE}")
