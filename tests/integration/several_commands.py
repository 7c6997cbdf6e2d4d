"""Commands of the trainer one after another in the same ranks: importing torch and DeepSpeed takes seconds.

`python -m tests.integration.several_commands COMMANDS.json`, as one rank of the environment's world. The process group
stands for all of them. Ends at the first command that fails, with its code.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from trainer import run
from trainer.__main__ import main
from trainer.collectives import process_group
from trainer.world import world_from_environment


def run_all(commands: list[list[str]]) -> int:
    with (
        process_group(world_from_environment(), timeout_seconds=120),
        pytest.MonkeyPatch.context() as patch,
    ):
        # DeepSpeed keeps the groups of the first process group for ever, so a process can have only one
        patch.setattr(run, "process_group", lambda *_arguments, **_settings: nullcontext())
        for command in commands:
            print("$", *command, file=sys.stderr, flush=True)
            if code := main(command):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(run_all(json.loads(Path(sys.argv[1]).read_text())))
