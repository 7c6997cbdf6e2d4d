"""Starts the ranks of one machine and stays with them: a job of its own, or a node of one that is larger.

torchrun cannot stand here: it ends with 1 when its workers end with 3, does not pass SIGUSR2 on, and kills after 30
seconds a rank that is still writing its snapshot. Used by every script but those of Slurm; imports no torch.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from launchers.orders import obey
from launchers.output import LAST_WORDS_SECONDS, MarkedOutput
from launchers.supervisor import (
    END,
    LOST,
    NOTICE,
    Member,
    Plan,
    before_member,
    signals_taken,
    supervise,
    watch,
)

STDIN, STDOUT = 0, 1
PR_SET_PDEATHSIG = 1
"""Of Linux' prctl.h."""


@dataclass(frozen=True, slots=True)
class Node:
    """This machine among those of the job, all of which run as many ranks."""

    number: int
    count: int
    ranks: int

    def environment(self, local_rank: int, *, port: int | None) -> dict[str, str]:
        """Of one rank. `port`: where ranks of a single machine meet; those of several know MASTER_ADDR and _PORT."""
        own = {
            "RANK": self.number * self.ranks + local_rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": self.count * self.ranks,
            "LOCAL_WORLD_SIZE": self.ranks,
        }
        meeting = {} if port is None else {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return os.environ | {name: str(value) for name, value in own.items()} | meeting


def main(arguments: Sequence[str]) -> int:
    found = _parser().parse_args(arguments)
    if found.ready:
        print(f"\nready {free_port('')}")  # whatever `setup` has said without ending its line
        return 0
    node = Node(found.node, found.nodes, found.ranks)
    if found.prefix is None:
        return _run_node(node, found.command, found.grace_seconds, found.silence_seconds)
    plan = Plan(Path(f"{found.prefix}.json"), found.max_restarts, found.grace_seconds)
    return supervise(plan, lambda _: _start_into_logs(node, found.command, prefix=found.prefix))


def free_port(address: str) -> int:
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])


def _start_into_logs(node: Node, command: Sequence[str], *, prefix: str) -> list[Member]:
    port = free_port("127.0.0.1")
    members = []
    for rank in range(node.ranks):
        with Path(f"{prefix}.rank-{rank}.log").open("ab") as log:
            members.append(_start(node, rank, command, port=port, output=log))
    return members


def _run_node(node: Node, command: Sequence[str], grace_seconds: float, silence_seconds: float | None) -> int:
    """One start, whose output goes on, marked, where this process's goes. Whoever started it starts it again."""
    port = free_port("127.0.0.1") if node.count == 1 else None
    with signals_taken():
        members = [
            _start(node, rank, command, port=port, output=subprocess.PIPE, prepare=_end_with_parent())
            for rank in range(node.ranks)
        ]
        output = MarkedOutput(STDOUT)
        for rank, member in enumerate(members, start=node.number * node.ranks):
            assert member.process.stdout is not None
            output.follow(rank, member.process.stdout)
        if silence_seconds is not None:
            obey(STDIN, silence_seconds=silence_seconds, on_silence=output.abandon)
        outcome = watch(members, grace_seconds=grace_seconds)
        for number in (*END, NOTICE):  # an order that comes this late must not change how we end
            signal.signal(number, signal.SIG_IGN)
        output.finish(within_seconds=LAST_WORDS_SECONDS)
    return min(outcome.code, LOST - 1)


def _end_with_parent() -> Callable[[], None]:
    """For a rank whose job goes on without it when this process is killed: it dies too, as nobody could end it then."""
    library = ctypes.CDLL(None)  # found here: a child that is no program yet should do little

    def prepare() -> None:
        before_member()
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


def _start(
    node: Node,
    local_rank: int,
    command: Sequence[str],
    *,
    port: int | None,
    output: IO[bytes] | int,
    prepare: Callable[[], None] = before_member,
) -> Member:
    """One rank in its own process group, so that Ctrl-C at a terminal reaches it once, through us."""
    process = subprocess.Popen(
        command,
        env=node.environment(local_rank, port=port),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=prepare,
    )
    return Member(f"rank {node.number * node.ranks + local_rank}", process, ask=partial(_ask, process))


def _ask(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """A trainer that is told to end again does so at once."""
    process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launchers.ranks", description=__doc__)
    parser.add_argument("--ready", action="store_true", help="say that this would start, and a free port; no more")
    parser.add_argument("--ranks", type=int, required=True, help="of this machine")
    parser.add_argument("--node", type=int, default=0, help="number of this machine among those of the job")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--grace-seconds", type=float, required=True)
    parser.add_argument("--prefix", help="beginning of the names of the logs and the record; none: marked output")
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--silence-seconds", type=float, help="end when standard input is silent for so long")
    parser.add_argument("command", nargs="+", help="what each rank runs, after `--`")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
