"""SIGKILL during a save: the snapshot before is loaded, and the next save cleans up."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.saved_runs import ALONE, save_step
from trainer.snapshot import Keep, Snapshots, open_snapshot, read_weights

MOMENTS = {1: "the tensors", 2: "the manifest"}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run folders whose saver died, by moment; that of 0 lived."""
    folders = {moment: tmp_path_factory.mktemp(f"moment-{moment}") for moment in (0, *MOMENTS)}
    processes = {
        moment: subprocess.Popen([sys.executable, "-m", "tests.distributed.killed_saver", str(folder), str(moment)])
        for moment, folder in folders.items()
    }
    codes = {moment: process.wait(timeout=200) for moment, process in processes.items()}
    assert codes == {0: 0, 1: -signal.SIGKILL, 2: -signal.SIGKILL}
    return folders


def test_a_save_that_lives_is_the_latest(killed: dict[int, Path]) -> None:
    assert open_snapshot(str(killed[0])).state.step == 2


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_snapshot_before_is_whole(killed: dict[int, Path], moment: int) -> None:
    assert open_snapshot(str(killed[moment])).state.step == 1
    assert "encoder.weight" in read_weights(str(killed[moment]))


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_next_save_leaves_nothing_of_it(killed: dict[int, Path], moment: int) -> None:
    snapshots = Snapshots(str(killed[moment] / "snapshots"), keep=Keep(last=1), world=ALONE)
    save_step(snapshots, 3)
    left = sorted(path.name for path in (killed[moment] / "snapshots").rglob("*"))
    assert left == ["manifest.json", "rank-00000-00000.safetensors", "step-00000003"]
