"""Saves, loads and goes on with snapshots of the toy, one case after the other in the same processes.

`python -m tests.distributed.snapshot_cases CASES.json RESULT.json`, as one rank of the environment's world. A case
saves to `save` after half of the steps, or begins with what lies at `load`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.errors import StorageError
from data_prep.contract.storage import Storage
from tests.distributed.engine_cases import STEPS, AnyEngine, make_engine, state_of, train
from trainer.collectives import process_group
from trainer.errors import TrainingError
from trainer.snapshot import About, Keep, RunState, Snapshots
from trainer.world import World, world_from_environment

HALF = STEPS // 2
ABOUT = About(config="name: toy\n", field_names=("density",), space_rank=1)


def save(engine: AnyEngine, snapshots: Snapshots, *, step: int) -> None:
    """To its end."""
    snapshots.begin(engine, RunState(step, samples_seen=8 * step), about=ABOUT, scores={})
    snapshots.settle()


def run_saving(case: dict[str, Any], world: World) -> dict[str, Any]:
    """Never stopped; a snapshot is written on the way."""
    engine = make_engine(case, world)
    snapshots = Snapshots(case["save"], keep=Keep(last=2), world=world)
    train(engine, world, case, first=0, last=HALF)
    state = state_of(engine)
    save(engine, snapshots, step=HALF)
    history = train(engine, world, case, first=HALF, last=STEPS)
    engine.close()
    return {"state": state, **history}


def run_loading(case: dict[str, Any], world: World) -> dict[str, Any]:
    """Other initial weights, then those of the snapshot. With `save`, to the step `until`, and a snapshot there."""
    engine = make_engine({**case, "seed": 11}, world)
    snapshots = Snapshots(case["load"], keep=Keep(last=2), world=world)
    latest = snapshots.latest()
    assert latest is not None
    reached = snapshots.load(latest, engine)
    state = state_of(engine)
    history = train(engine, world, case, first=reached.step, last=case.get("until", STEPS))
    if "save" in case:
        save(engine, Snapshots(case["save"], keep=Keep(last=2), world=world), step=case["until"])
    engine.close()
    return {"state": state, "step": reached.step, "samples_seen": reached.samples_seen, **history}


def run_failing(case: dict[str, Any], world: World) -> dict[str, Any]:
    """The last rank's disk is full at the second save, and has room again at the third."""
    engine = make_engine(case, world)
    snapshots = Snapshots(case["fail"], keep=Keep(last=2), world=world)
    train(engine, world, case, first=0, last=1)
    save(engine, snapshots, step=1)
    train(engine, world, case, first=1, last=2)
    message, found = "", []
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == world.size - 1:
            patch.setattr(Storage, "put", fail_to_put)
        try:
            save(engine, snapshots, step=2)
        except TrainingError as error:
            message = str(error)
        latest = snapshots.latest()
        found.append(latest.state.step if latest else None)
    save(engine, snapshots, step=2)
    latest = snapshots.latest()
    found.append(latest.state.step if latest else None)
    engine.close()
    return {"message": message, "latest": found}


def fail_to_put(storage: Storage, path: str, data: bytes) -> None:
    raise StorageError(f"{storage.locate(path)}: no space left on device")


def run_case(case: dict[str, Any], world: World) -> dict[str, Any]:
    if "load" in case:
        return run_loading(case, world)
    return run_saving(case, world) if "save" in case else run_failing(case, world)


def main(asked: Path, result: Path) -> None:
    world = world_from_environment()
    cases: dict[str, dict[str, Any]] = json.loads(asked.read_text())
    with process_group(world, timeout_seconds=100):
        found = {name: run_case(case, world) for name, case in cases.items()}
    if world.is_main:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
