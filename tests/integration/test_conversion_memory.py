"""What a conversion holds in memory: a shard and a stretch of frames, however large the file is."""

import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tests.unit.tiny_well import TinyField, write_file

NUM_STEPS, SIZE = 100, 96
FILE_BYTES = 4 * NUM_STEPS * SIZE**3
SHARD_BYTES = 16 * 2**20
MEASURED = """
import sys
from pathlib import Path
import data_prep.sources.well, data_prep.layouts.zarr_writer
from data_prep.__main__ import main

def peak():  # not getrusage, which begins with what the parent had
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])

before = peak()
assert main(sys.argv[1:]) == 0
print(peak() - before)
"""


def make_large(file: h5py.File) -> None:
    """Many times as many steps, of which no value is written: the file takes no room on the disk."""
    field, time = file["t0_fields/density"], file["dimensions/time"]
    for array, shape in ((field, (1, NUM_STEPS, SIZE, SIZE, SIZE)), (time, (NUM_STEPS,))):
        name, attributes = array.name, dict(array.attrs)
        del file[name]
        file.create_dataset(name, shape, "f4").attrs.update(attributes)
    file["dimensions/time"][:] = range(NUM_STEPS)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here, which tells the peak")
def test_memory_is_bounded_by_the_shard_and_not_by_the_file(tmp_path: Path) -> None:
    """354 MB of 3D frames in shards of 16 MiB. Beside a shard: 32 MiB of frames, and what HDF5 gives for them."""
    axes = dict.fromkeys(("x", "y", "z"), SIZE)
    path = tmp_path / "large" / "data" / "train" / "a.hdf5"
    write_file(
        path, num_trajectories=1, num_steps=1, axes=axes, fields=[TinyField("density")], boundaries=(), edit=make_large
    )
    options = ("--format", "zarr", "--codec", "none", "--shard-bytes", str(SHARD_BYTES))
    words = ["convert", str(tmp_path / "large"), str(tmp_path / "out"), *options]
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=True)
    peak_bytes = int(done.stdout.splitlines()[-1])
    assert path.stat().st_size < FILE_BYTES / 10
    assert SHARD_BYTES < peak_bytes < SHARD_BYTES + 4 * 2**25 < FILE_BYTES / 2, f"{peak_bytes / 2**20:.0f} MiB"
