"""Joins the process group, talks, and maybe leaves badly.

`python -m tests.distributed.group_cases CASES.json RESULT.json`, as one rank of the environment's world.
"""

import json
import sys
from pathlib import Path

import torch

from trainer.collectives import gather_texts, is_on_any_rank, process_group
from trainer.engine.whole import Piece, assemble
from trainer.world import World, world_from_environment

WORDS = ["", "wölfe", "x" * 1000]
WHOLES = (torch.tensor([[-0.0, 1e-45, 3.0]]), torch.tensor(-0.0), torch.arange(7.0))
"""Of which each rank holds as many elements as it has a right to, the last ranks maybe none."""


def bits_assembled(world: World) -> list[list[int]]:
    """Bit patterns of WHOLES, from the pieces of all ranks."""
    pieces = []
    for whole in WHOLES:
        share = -(-whole.numel() // world.size)
        start = min(share * world.rank, whole.numel())
        mine = whole.flatten()[start : start + share]
        pieces.append(Piece(whole.shape, start, mine if len(mine) else None))
    return [whole.flatten().view(torch.int32).tolist() for whole in assemble(pieces, device=world.device)]


def main(asked: Path, result: Path) -> None:
    world = world_from_environment()
    found = {}
    with process_group(world, timeout_seconds=30):
        found["texts"] = gather_texts(f"rank {world.rank}: " + WORDS[world.rank], world=world)
        found["empty"] = gather_texts("", world=world)
        found["any"] = [is_on_any_rank(flag, world=world) for flag in (False, world.rank == world.size - 1)]
        found["bits"] = bits_assembled(world)
    with process_group(world, timeout_seconds=30):
        found["again"] = gather_texts(str(world.rank), world=world)
    if world.is_main:
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
