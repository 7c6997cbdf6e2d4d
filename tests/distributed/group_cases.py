"""Joins the process group, talks, and maybe leaves badly.

`python -m tests.distributed.group_cases CASES.json RESULT.json`, as one rank of the environment's world.
"""

import json
import sys
from pathlib import Path

from trainer.collectives import gather_texts, is_on_any_rank, process_group
from trainer.world import world_from_environment

WORDS = ["", "wölfe", "x" * 1000]


def main(asked: Path, result: Path) -> None:
    world = world_from_environment()
    found = {}
    with process_group(world, timeout_seconds=30):
        found["texts"] = gather_texts(f"rank {world.rank}: " + WORDS[world.rank], world=world)
        found["empty"] = gather_texts("", world=world)
        found["any"] = [is_on_any_rank(flag, world=world) for flag in (False, world.rank == world.size - 1)]
    with process_group(world, timeout_seconds=30):
        found["again"] = gather_texts(str(world.rank), world=world)
    if world.is_main:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
