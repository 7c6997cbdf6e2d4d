"""A process that does nothing but report steps through our endpoint: `practice_exporter.py TARGETS RUN`.

Ends well on SIGTERM. Stopped or killed, it is a trainer that hangs or died.
"""

import signal
import sys
import time
from pathlib import Path

from trainer.interfaces import Report
from trainer.metrics.prometheus import open_prometheus

STEP_SECONDS = 0.1


def main(targets: Path, run: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sink = open_prometheus(run, 0, port=0, targets=targets / f"{run}.json", facts={"run": run})
    step = 0
    while signal.sigtimedwait({signal.SIGTERM}, STEP_SECONDS) is None:
        step += 1
        scalars = {
            "loss": 1.0 / step,
            "gradient_norm": 0.5,
            "learning_rate": 1e-3,
            "memory_bytes": 2.0**20,
            "validation/vrmse": 0.9,
            "snapshot_time": time.time(),
        }
        counts = {"steps": 1.0, "windows": 8.0, "tokens": 512.0, "bytes": 1e6}
        seconds = {"seconds/data": 0.002, "seconds/step": 0.09, "seconds/snapshot": 0.001}
        totals = {name: step * value for name, value in (counts | seconds).items()}
        report = Report(step, 8 * step, time.time(), scalars=scalars, totals=totals, step_seconds=(STEP_SECONDS,))
        sink.publish(report)
    sink.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
