"""A trainer without training: what launchers see of one, and nothing else.

`train FOLDER/CONFIG` notes each start of each rank in FOLDER, then works until FOLDER/finish appears
(exit 0), FOLDER/crash-RANK appears (exit 1), or SIGTERM or SIGUSR2 comes (counts a snapshot, exit 3). Where
FOLDER/late exists, it does not listen to signals before FOLDER/listen appears, like a trainer that still imports.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

NOTICES = {signal.SIGTERM, signal.SIGUSR2}
LOOK_EVERY_SECONDS = 0.02


def main(folder: Path) -> int:
    rank = int(os.environ["RANK"])
    if (folder / "late").exists():
        (folder / f"born-{rank}").touch()
        while not (folder / "listen").exists():
            time.sleep(LOOK_EVERY_SECONDS)
    signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)
    snapshot = folder / "snapshot"
    step = int(snapshot.read_text()) if snapshot.exists() else 0
    note = {"step": step, "pid": os.getpid(), "environment": dict(os.environ)}
    number = len(list(folder.glob(f"start-{rank}-*.json")))
    partial = folder / f"start-{rank}.part"
    partial.write_text(json.dumps(note))
    os.replace(partial, folder / f"start-{rank}-{number}.json")
    print(f"rank {rank} starts at step {step}")
    while not (folder / "finish").exists():
        if (folder / f"crash-{rank}").exists():
            return 1
        received = signal.sigtimedwait(NOTICES, LOOK_EVERY_SECONDS)
        if received is not None:
            print(f"rank {rank} received {signal.Signals(received.si_signo).name}")
            if rank == 0:
                (folder / "snapshot").write_text(str(step + 1))
            return 3
    print(f"rank {rank} finished at step {step}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[2]).parent))
