"""Rank 1 dies or stops where rank 0 waits for it; rank 0 writes what it was told.

`python -m tests.distributed.lost_rank SIGNAL RESULT`, as one rank of the environment's world.
"""

import os
import sys
from pathlib import Path

from trainer.collectives import gather_texts, process_group
from trainer.world import world_from_environment


def main(signal_number: int, result: Path) -> None:
    world = world_from_environment()
    with process_group(world, timeout_seconds=3):
        gather_texts("all are here", world=world)
        if world.rank == 1:
            os.kill(os.getpid(), signal_number)
        try:
            gather_texts("anyone?", world=world)
        except RuntimeError as error:
            result.write_text(str(error))
            raise


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
