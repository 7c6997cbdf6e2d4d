"""Trains cases for many steps, one after the other in the same processes, and writes their losses.

`python -m tests.distributed.long_cases CASES.json RESULT.json`, as one rank of the environment's world. A case is one
of `engine_cases` with `steps`.
"""

import json
import sys
from pathlib import Path

from tests.distributed.engine_cases import Case, make_engine, train
from trainer.collectives import process_group
from trainer.world import world_from_environment


def main(asked: Path, result: Path) -> None:
    world = world_from_environment()
    cases: dict[str, Case] = json.loads(asked.read_text())
    losses = {}
    with process_group(world, timeout_seconds=600):
        for name, case in cases.items():
            engine = make_engine(case, world)
            losses[name] = train(engine, world, case, first=0, last=case["steps"])["loss"]
            engine.close()
            if world.is_main:
                print(f"{name}: {losses[name][-1]:.6f}", flush=True)
    if world.is_main:
        result.write_text(json.dumps(losses))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
