"""Saves two snapshots and dies by SIGKILL in the middle of the second one.

`python -m tests.distributed.killed_saver RUN_FOLDER MOMENT`: dies at the MOMENT-th file that the second save makes
durable, before it is renamed into place (0 does not die).
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

import pytest

from tests.unit.saved_runs import save_run, save_step
from trainer.snapshot import Keep


def main(folder: Path, moment: int) -> None:
    snapshots = save_run(folder, 1, keep=Keep(last=1))
    calls, durable = count(1), os.fsync

    def dying_fsync(descriptor: int) -> None:
        durable(descriptor)
        if next(calls) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", dying_fsync)
        save_step(snapshots, 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
