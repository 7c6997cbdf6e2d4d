"""Does the way a step is computed change the training? Both stages, float32, against one process without DeepSpeed.

    python -m tests.benchmarks.test_equivalence        100 steps, one thing changed at a time; 10 minutes on 2 cores
    python -m tests.benchmarks.test_equivalence all    every combination; half an hour

ZeRO 0 to 3, 1, 2 and 4 ranks, accumulation 1, 2 and 4, recomputation on and off: the largest relative difference of
any step's loss. As an ordinary test it runs two of them for a few steps (tests/distributed has the others for six).
"""

import json
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from tests.distributed.conftest import start_ranks, wait_for
from tests.distributed.engine_table import SLOW

BOUND = 1e-5
MODELS = ("tokeniser", "dynamics")
STAGES, RANKS, ACCUMULATIONS = range(4), (1, 2, 4), (1, 2, 4)
GLOBAL_BATCH = 8
Key = tuple[str, int, int, int, bool]
"""Model, ranks, ZeRO stage, accumulation, recomputation."""


def combinations() -> list[Key]:
    """All that share the global batch."""
    every = product(MODELS, RANKS, STAGES, ACCUMULATIONS, (False, True))
    return [key for key in every if key[1] * key[3] <= GLOBAL_BATCH]


def one_at_a_time() -> list[Key]:
    """Of each model and stage: other ranks, and on two ranks another accumulation, and recomputation."""
    return [
        key for key in combinations() if (key[3], key[4]) == (1, False) or (key[1] == 2 and (key[3] == 1 or not key[4]))
    ]


def differences(keys: list[Key], *, steps: int, folder: Path, seconds: float) -> dict[Key, float]:
    """The largest relative difference of any step's loss from that of one process without DeepSpeed."""
    cases: dict[int, dict[str, Any]] = {1: {model: _case(model, steps, kind="plain") for model in MODELS}}
    for key in keys:
        model, ranks, stage, accumulation, recompute = key
        case = _case(model, steps, stage=stage, accumulation=accumulation, recompute=recompute)
        cases.setdefault(ranks, {})[json.dumps(key)] = case
    losses = {ranks: _train(ranks, cases[ranks], folder=folder, seconds=seconds) for ranks in sorted(cases)}
    return {
        key: max(
            abs(found / expected - 1)
            for found, expected in zip(losses[key[1]][json.dumps(key)], losses[1][key[0]], strict=True)
        )
        for key in keys
    }


def _case(model: str, steps: int, **engine: Any) -> dict[str, Any]:
    return {"model": model, "steps": steps, **SLOW, **engine}


def _train(ranks: int, cases: dict[str, Any], *, folder: Path, seconds: float) -> dict[str, list[float]]:
    asked, result = folder / f"{ranks}-cases.json", folder / f"{ranks}-losses.json"
    asked.write_text(json.dumps(cases))
    logs = folder / str(ranks)
    started = start_ranks("tests.distributed.long_cases", ranks, arguments=(str(asked), str(result)), logs=logs)
    codes = wait_for(started, seconds=seconds)
    assert not any(codes), "\n".join(path.read_text(errors="replace")[-3000:] for path in logs.iterdir())
    losses: dict[str, list[float]] = json.loads(result.read_text())
    return losses


def table(found: dict[Key, float]) -> str:
    """For people: one row for each way of a model to be sharded, one column for each way to share the batch."""
    columns = sorted({(key[1], key[3]) for key in found})
    header = " | ".join(f"{ranks} × {accumulation}" for ranks, accumulation in columns)
    lines = [f"| stage, sharding | {header} |", "|---" * (len(columns) + 1) + "|"]
    for model, stage, recompute in product(MODELS, STAGES, (False, True)):
        cells = (found.get((model, ranks, stage, accumulation, recompute)) for ranks, accumulation in columns)
        name = f"{model}, ZeRO {stage}{', recomputed' * recompute}"
        lines.append(f"| {name} | " + " | ".join("" if cell is None else f"{cell:.0e}" for cell in cells) + " |")
    return "\n".join(lines)


def test_the_way_a_step_is_computed_changes_nothing(tmp_path: Path) -> None:
    keys: list[Key] = [("tokeniser", 2, 2, 2, True), ("dynamics", 2, 3, 1, False)]
    found = differences(keys, steps=8, folder=tmp_path, seconds=250)
    assert max(found.values()) < BOUND, found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        keys = combinations() if sys.argv[1:] == ["all"] else one_at_a_time()
        result = differences(keys, steps=100, folder=Path(folder), seconds=7200)
    print("Largest relative difference of the loss over 100 steps, by ranks × accumulation:\n")
    print(table(result))
    print(f"\nlargest of all: {max(result.values()):.1e}; bound: {BOUND:.0e}")
    sys.exit(max(result.values()) >= BOUND)
