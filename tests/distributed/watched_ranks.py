"""Ranks that train nothing, watched: the others wait for one, which stops or hangs.

`python -m tests.distributed.watched_ranks FOLDER` runs all cases at once and writes FOLDER/CASE/RANK.log, and the
exit codes into FOLDER/codes.json. Ranks are forks of this process, since importing torch takes longer than they do.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port
from trainer.collectives import gather_texts, meeting_store, process_group
from trainer.watch import Watch
from trainer.world import environment_of_rank, world_from_environment

LIMIT_SECONDS = 6.0
"""Of the watch. Collectives would wait for 300 s."""
WINDOWS = "gas.hdf5#3 from frame 17"


@dataclass(frozen=True)
class Case:
    ranks: int
    troubled: int
    """The rank that does not answer."""
    stays: bool = False
    """It is stopped, so that only a kill ends it."""


CASES = {
    "stopped": Case(ranks=3, troubled=1, stays=True),
    "first stopped": Case(ranks=3, troubled=0, stays=True),
    "hanging": Case(ranks=2, troubled=1),
    "holding": Case(ranks=2, troubled=1),
    "slow": Case(ranks=2, troubled=1),
}


def trouble(case: str, watch: Watch) -> None:
    match case:
        case "hanging":
            watch.begins("data", 4)
            time.sleep(300)
        case "holding":  # the interpreter lock, which PyDLL does not give up
            ctypes.PyDLL(None).sleep(300)
        case "slow":
            time.sleep(2 * LIMIT_SECONDS)
        case _:
            os.kill(os.getpid(), signal.SIGSTOP)


def run_rank(name: str) -> None:
    world = world_from_environment()
    with process_group(world, timeout_seconds=300):
        watch = Watch(
            world=world,
            store=meeting_store(),
            limit_seconds=LIMIT_SECONDS,
            name_windows=lambda step: f"{WINDOWS} of step {step}",
            stream=sys.stderr,
        )
        with watch:
            gather_texts("all are here", world=world)
            watch.begins("evaluation" if name == "slow" else "step", 4)
            if world.rank == CASES[name].troubled:
                trouble(name, watch)
            gather_texts("anyone?", world=world)


def fork_rank(name: str, rank: int, *, port: int, folder: Path) -> int:
    """Its process id."""
    child = os.fork()
    if child:
        return child
    os.environ.update(environment_of_rank(rank, size=CASES[name].ranks, port=port))
    log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    code = 0
    try:
        run_rank(name)
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def main(folder: Path) -> None:
    children = {}
    for name, case in CASES.items():
        logs, port = folder / name, free_port()
        logs.mkdir()
        children[name] = [fork_rank(name, rank, port=port, folder=logs) for rank in range(case.ranks)]
    codes: dict[str, list[int | None]] = {}
    for name, ranks in children.items():
        ends = [rank != CASES[name].troubled or not CASES[name].stays for rank in range(len(ranks))]
        codes[name] = [
            os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if does_end else None
            for child, does_end in zip(ranks, ends, strict=True)
        ]
        for child, does_end in zip(ranks, ends, strict=True):
            if not does_end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
