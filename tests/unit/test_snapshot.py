"""Snapshots of one process: what comes back, what stays, what an interrupted writer leaves."""

from collections import deque
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file

from data_prep.contract.errors import StorageError
from data_prep.contract.storage import Storage
from tests.unit.saved_runs import ABOUT, ALONE, Entries, make_entries, save_run, save_step
from trainer.errors import SnapshotError, TrainingError
from trainer.snapshot import Keep, RunState, Snapshots, open_snapshot, read_weights
from trainer.snapshot.shards import write_share


def steps_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "snapshots").iterdir())


def same(left: dict[str, dict[str, torch.Tensor]], right: dict[str, dict[str, torch.Tensor]]) -> bool:
    pairs = [(left[name], right[name]) for name in left]
    return left.keys() == right.keys() and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)
        for a, b in pairs
    )


def test_what_is_saved_comes_back_bitwise(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 5)
    engine, latest = Entries(make_entries(99)), snapshots.latest()
    assert latest is not None
    snapshots.load(latest, engine)
    assert same(engine.held, make_entries(5))


def test_the_run_state_comes_back(tmp_path: Path) -> None:
    save_run(tmp_path, 5)
    assert open_snapshot(str(tmp_path / "snapshots" / "step-00000005")).state == RunState(5, 40)


def test_what_is_said_of_the_run_comes_back(tmp_path: Path) -> None:
    save_run(tmp_path, 5)
    assert open_snapshot(str(tmp_path)).about == ABOUT


def test_an_engine_goes_on_from_the_saved_step(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 5)
    engine, latest = Entries(make_entries(99)), snapshots.latest()
    assert latest is not None
    assert snapshots.load(latest, engine) == RunState(5, 40)
    assert engine.step_reached == 5


def test_a_run_state_counts_steps_and_samples() -> None:
    assert RunState().advance(samples=8).advance(samples=8) == RunState(step=2, samples_seen=16)


def test_a_run_without_snapshots_has_no_latest(tmp_path: Path) -> None:
    assert save_run(tmp_path).latest() is None


def test_the_latest_is_the_newest_by_step(tmp_path: Path) -> None:
    latest = save_run(tmp_path, 9, 100, 20).latest()
    assert latest is not None
    assert latest.state.step == 100


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    save_run(tmp_path, 1, 2, 3, 4, keep=Keep(last=2))
    assert steps_of(tmp_path) == ["step-00000003", "step-00000004"]


def test_a_step_that_is_saved_already_is_left_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "snapshots" / "step-00000005" / "manifest.json"
    save_run(tmp_path, 5)
    before = place.stat().st_mtime_ns
    snapshots = save_run(tmp_path)
    latest = snapshots.latest()
    assert latest is not None
    snapshots.load(latest, Entries(make_entries(99)))
    save_step(snapshots, 5)
    assert place.stat().st_mtime_ns == before


def test_a_snapshot_that_another_run_wrote_ends_this_one(tmp_path: Path) -> None:
    save_run(tmp_path, 5)
    with pytest.raises(TrainingError, match="this run did not write it"):
        save_run(tmp_path, 5)


def test_a_folder_without_its_manifest_is_no_snapshot(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 1, 2)
    (tmp_path / "snapshots" / "step-00000002" / "manifest.json").unlink()
    latest = snapshots.latest()
    assert latest is not None
    assert latest.state.step == 1


def test_the_next_save_removes_what_an_interrupted_one_left(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 1, 2)
    (tmp_path / "snapshots" / "step-00000002" / "manifest.json").unlink()
    save_step(snapshots, 3)
    assert steps_of(tmp_path) == ["step-00000001", "step-00000003"]


def test_an_interrupted_save_can_be_repeated(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 2)
    folder = tmp_path / "snapshots" / "step-00000002"
    (folder / "manifest.json").unlink()
    (folder / "rank-00007-00000.safetensors").write_bytes(b"of a larger world")
    save_step(snapshots, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rank-00000-00000.safetensors"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_save_that_fails_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The first object that is written is the tensors' file, the second the manifest."""
    snapshots, calls, put = save_run(tmp_path, 1), [], Storage.put

    def failing_put(storage: Storage, path: str, data: bytes) -> None:
        calls.append(path)
        if len(calls) == failing:
            raise StorageError("no space left on device")
        put(storage, path, data)

    monkeypatch.setattr(Storage, "put", failing_put)
    with pytest.raises(TrainingError, match="rank 0: no space left on device"):
        save_step(snapshots, 2)
    latest = snapshots.latest()
    assert latest is not None
    assert latest.state.step == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("state", ["weight", "exp_avg"])
def test_values_that_are_not_finite_are_not_saved_and_the_former_ones_stay(
    tmp_path: Path, state: str, value: float
) -> None:
    snapshots = save_run(tmp_path, 1, keep=Keep(last=1))
    entries = make_entries(2)
    entries["encoder.weight"][state][1, 2] = value
    before = sorted((tmp_path / "snapshots").rglob("*"))
    with pytest.raises(
        TrainingError, match=rf"step-00000002 is not written, since `encoder\.weight/{state}` and 0 other"
    ):
        snapshots.begin(Entries(entries), RunState(step=2), about=ABOUT, scores={})
    assert snapshots.settle() is None
    assert sorted((tmp_path / "snapshots").rglob("*")) == before


def test_other_programs_read_the_tensors(tmp_path: Path) -> None:
    save_run(tmp_path, 5)
    tensors = load_file(tmp_path / "snapshots" / "step-00000005" / "rank-00000-00000.safetensors")
    assert torch.equal(tensors["encoder.bias/exp_avg"], make_entries(5)["encoder.bias"]["exp_avg"])


def test_files_are_of_bounded_size(tmp_path: Path) -> None:
    share = deque(make_entries().items())
    assert len(write_share(Storage(str(tmp_path)), share, rank=0, file_bytes=60)["files"]) > 1


def test_weights_are_read_by_one_process_from_a_run_folder(tmp_path: Path) -> None:
    save_run(tmp_path, 4, 5)
    weights, expected = read_weights(str(tmp_path)), make_entries(5)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]["weight"]) for name in expected)


def test_a_folder_without_snapshots_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="neither a snapshot"):
        open_snapshot(str(tmp_path))


def test_the_digest_tells_snapshots_apart(tmp_path: Path) -> None:
    save_run(tmp_path, 4, 5)
    folders = [str(tmp_path / "snapshots" / name) for name in steps_of(tmp_path)]
    first, second = (open_snapshot(folder).digest for folder in folders)
    assert first != second
    assert open_snapshot(folders[0]).digest == first


def test_a_model_that_needs_more_is_refused(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 5)
    latest = snapshots.latest()
    assert latest is not None
    with pytest.raises(SnapshotError, match="no entry `decoder`"):
        snapshots.load(latest, Entries({"decoder": {}}))


def test_a_model_that_needs_less_is_refused(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 5)
    latest = snapshots.latest()
    assert latest is not None
    with pytest.raises(SnapshotError, match="`count` and 3 other"):
        snapshots.load(latest, Entries({"frozen": {}}))


def test_snapshots_are_found_on_any_storage() -> None:
    snapshots = Snapshots("memory://runs/any/snapshots", keep=Keep(last=1), world=ALONE)
    save_step(snapshots, 1)
    save_step(snapshots, 2)
    assert open_snapshot("memory://runs/any").state.step == 2
    assert len(Storage("memory://runs/any").list()) == 2


@pytest.fixture
def held_storage(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Storage that writes nothing until this is set."""
    free, put = Event(), Storage.put

    def patient_put(storage: Storage, path: str, data: bytes) -> None:
        assert free.wait(timeout=100)
        put(storage, path, data)

    monkeypatch.setattr(Storage, "put", patient_put)
    return free


def test_the_state_may_change_while_it_is_written(tmp_path: Path, held_storage: Event) -> None:
    snapshots, engine = save_run(tmp_path), Entries(make_entries(5))
    snapshots.begin(engine, RunState(5, 40), about=ABOUT, scores={})
    assert snapshots.is_writing
    for tensors in engine.held.values():
        for tensor in tensors.values():
            tensor.zero_()
    held_storage.set()
    assert snapshots.commit() == RunState(5, 40)
    assert same({name: open_snapshot(str(tmp_path)).read(name) for name in make_entries()}, make_entries(5))


def test_it_is_no_snapshot_before_it_is_committed(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path)
    snapshots.begin(Entries(make_entries(5)), RunState(5, 40), about=ABOUT, scores={})
    while snapshots.is_writing:
        pass
    assert snapshots.latest() is None
    snapshots.commit()
    assert snapshots.latest() is not None


def test_the_next_one_completes_it_first(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path)
    for step in (1, 2):
        snapshots.begin(Entries(make_entries(step)), RunState(step, 8 * step), about=ABOUT, scores={})
    latest = snapshots.latest()
    assert latest is not None
    assert latest.state.step == 1


def test_nothing_in_the_making_is_nothing_to_commit(tmp_path: Path) -> None:
    snapshots = save_run(tmp_path, 1)
    assert not snapshots.is_writing
    assert snapshots.commit() is None


def test_every_so_often_one_stays(tmp_path: Path) -> None:
    save_run(tmp_path, 10, 15, 20, 25, keep=Keep(last=1, every_steps=10))
    assert steps_of(tmp_path) == ["step-00000010", "step-00000020", "step-00000025"]


def test_the_best_stay(tmp_path: Path) -> None:
    best = Keep(last=1, best=2, score="valid/vrmse")
    snapshots = save_run(tmp_path, keep=best)
    for step, score in enumerate((0.5, 0.2, 0.4, 0.1, 0.3), start=1):
        save_step(snapshots, step, **{"valid/vrmse": score})
    assert steps_of(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    resumed = save_run(tmp_path, keep=best)
    save_step(resumed, 6)
    assert steps_of(tmp_path) == ["step-00000002", "step-00000004", "step-00000006"]
