"""A process that streams ends at once on Ctrl-C, also without a `with` block's help, and says nothing of threads."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.prepared import prepare

PROGRAM = """
import sys
from dataclasses import dataclass
from trainer.config.schema import DataConfig
from trainer.data.stream import open_datasets, training_loader

@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1

data = DataConfig.model_validate({
    "datasets": ({"url": sys.argv[1]},), "window": {"frames": 3}, "batch_size": 2, "threads": 4,
})
names = ("density", "momentum_x", "momentum_y")
ids = dict(zip(names, range(3)))
loader = training_loader(
    data, open_datasets(data), seed=0, step=0, share=Share(), micro_batch_size=1, field_ids=ids, pin=False
)
loader.__enter__()
loader.take(2)
try:
    print("streaming", flush=True)
    while True:
        loader.take(2)
except KeyboardInterrupt:
    if sys.argv[2] == "close":
        loader.close()
    print("ended", flush=True)
"""


@pytest.mark.parametrize("ending", ["close", "forget"])
def test_an_interrupted_stream_ends_clean(tmp_path: Path, repository: Path, ending: str) -> None:
    prepared = prepare(tmp_path)
    command = [sys.executable, "-c", PROGRAM, prepared.url, ending]
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "streaming\n"
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # one that does not end would be waited for, and go on streaming beside all other tests
    assert (output, errors, process.returncode) == ("ended\n", "", 0)
