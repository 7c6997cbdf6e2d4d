"""One writer at a time in a run's folder."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

import trainer.run_folder
from tests.unit.prepared import prepare
from trainer.errors import RefusedError
from trainer.run_folder import claim_folder, claim_folders, refuse_lost_snapshots, refuse_place_of_snapshots, start_log

HOLD = """
import sys
from trainer.run_folder import claim_folder
lock = claim_folder(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.run_folder, "PATIENCE_SECONDS", 0.0)


def test_a_folder_that_another_process_writes_is_refused_and_names_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RefusedError, match=f"is being written by process {holder.pid} on"):
            claim_folder(str(tmp_path))
        holder.kill()
    claim_folder(str(tmp_path)).close()


def test_two_runs_that_save_to_one_place_are_told_apart(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    with (
        claim_folders(str(tmp_path / "one"), shared),
        pytest.raises(RefusedError, match=r"snapshots\.url: .*shared is being written by process"),
        claim_folders(str(tmp_path / "two"), shared),
    ):
        pass
    with claim_folders(str(tmp_path / "two"), shared):
        pass


def test_snapshots_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    with claim_folders(str(tmp_path / "run"), f"file://{tmp_path}/run"):
        pass


def test_a_folder_given_back_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        claim_folder(str(tmp_path / "run")).close()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RefusedError, match=r"output: .*/run: File exists; name a folder to write to"):
        claim_folder(str(tmp_path / "run"))


def test_the_log_starts_beside_the_resolved_config(tmp_path: Path) -> None:
    start_log(str(tmp_path), config_text="name: a\n", resumed_step=0).close()
    assert (tmp_path / "config.yaml").read_text() == "name: a\n"
    assert (tmp_path / "log.jsonl").exists()


def test_places_that_cannot_hold_snapshots_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    dataset = prepare(tmp_path / "data", lengths=(8,), splits=("train",), resolution=(8, 8)).url
    refusals = {
        f"{tmp_path}/file": "is a file; snapshots.url must be a folder",
        "/proc/nothing": "cannot be written",
        f"{dataset}/below": "snapshots.url: .* lies in the prepared dataset",
        "memory://snapshots": "ends with this process",
        "nothing://bucket/snapshots": "unknown scheme",
    }
    for url, said in refusals.items():
        with pytest.raises(RefusedError, match=said):
            refuse_place_of_snapshots(url)


def test_a_place_of_snapshots_is_not_made_by_asking(tmp_path: Path) -> None:
    refuse_place_of_snapshots(str(tmp_path / "new" / "snapshots"))
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_said_in_one_line_and_the_folder_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(RefusedError, match=r"lock: No space left on device; make room"):
            claim_folder(str(tmp_path))
    claim_folder(str(tmp_path)).close()


def test_a_run_whose_snapshots_are_gone_does_not_begin_again(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 7, "snapshot_step": 5.0}\n')
    with pytest.raises(RefusedError, match=r"snapshot of step 5 was written, but none is in s3://other/run"):
        refuse_lost_snapshots(str(tmp_path), url="s3://other/run")


def test_a_run_that_ended_before_its_first_snapshot_begins_again(tmp_path: Path) -> None:
    assert not refuse_lost_snapshots(str(tmp_path), url="anywhere")
    (tmp_path / "log.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    assert refuse_lost_snapshots(str(tmp_path), url="anywhere")
