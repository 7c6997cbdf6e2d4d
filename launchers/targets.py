"""Tells Prometheus where the hosts of a job serve their metrics, by a file in the folder where it looks for runs.

For hosts that share no file system with it, where the runs themselves cannot. Used by `hosts.py`.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from launchers.job import write_whole


@dataclass(frozen=True, slots=True)
class Targets:
    """The file of one job: every host that it runs on, by the label `node`. `run` is the label of that name."""

    path: Path
    run: str
    port: int

    def announce(self, addresses: Sequence[str]) -> None:
        """In place of those before, whole at any moment. Raises OSError where it cannot be written."""
        found = [
            {"targets": [f"{_in_url(address)}:{self.port}"], "labels": {"run": self.run, "node": str(node)}}
            for node, address in enumerate(addresses)
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(found) + "\n")

    def withdraw(self) -> None:
        """A job that has ended must not look like one that was lost."""
        with suppress(OSError):  # nobody could be told of it any more
            self.path.unlink(missing_ok=True)


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
