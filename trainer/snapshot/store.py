"""Saves snapshots of a run while it goes on, finds the latest one, and removes old ones.

A save has three parts. `begin` copies each rank's share to its own memory; a thread of each rank writes it while
training goes on, and calls no collective; once no rank `is_writing`, `commit` gathers what was written and rank 0
puts the manifest. Methods that say so are called by all ranks alike.
"""

import json
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_prep.contract.storage import Storage
from trainer.collectives import gather_texts
from trainer.errors import SnapshotError, TrainingError
from trainer.interfaces import Engine
from trainer.snapshot.keep import Keep
from trainer.snapshot.manifest import MANIFEST, About, FileRecord, Manifest, TensorRecord
from trainer.snapshot.open import CURE, Snapshot, complete_folders, latest_folder
from trainer.snapshot.shards import STORAGE_ERRORS, Share, is_finite, num_bytes, write_share
from trainer.snapshot.state import RunState
from trainer.world import World


@dataclass(frozen=True)
class _Saving:
    """A snapshot in the making."""

    state: RunState
    about: About
    scores: Mapping[str, float]
    share: Future[dict[str, Any]]
    """What this rank has written of it."""

    @property
    def folder(self) -> str:
        return folder_of(self.state.step)


class Snapshots:
    """The snapshots of one run."""

    def __init__(self, url: str, *, keep: Keep, world: World) -> None:
        """`url`: the folder that holds them all."""
        self._storage, self._keep, self._world = Storage(url), keep, world
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._saving: _Saving | None = None
        self._tidying: Future[None] | None = None
        self._scores: dict[str, float | None] = {}
        self._newest_step = 0
        """Of the snapshots that this run has loaded or written."""

    def latest(self) -> Snapshot | None:
        """All ranks alike: the newest complete one; rank 0 looks, so that all ranks open the same."""
        folder = self._exchange("", lambda: latest_folder(self._storage) if self._world.is_main else None)[0]
        if folder is None:
            return None
        snapshot = Snapshot(self._storage.join(folder))
        if snapshot.is_export or folder_of(snapshot.state.step) != folder:
            what = "an export, weights alone" if snapshot.is_export else f"of step {snapshot.state.step}"
            raise SnapshotError(f"{snapshot.url} is {what}, and no snapshot of this run{CURE}")
        return snapshot

    def load(self, snapshot: Snapshot, engine: Engine) -> RunState:
        """All ranks alike, before the first step. Raises SnapshotError when the snapshot is of another model."""
        read: set[str] = set()

        def entry(name: str) -> dict[str, Tensor]:
            read.add(name)
            return snapshot.read(name)

        engine.load_entries(entry, step=snapshot.state.step)
        unused = sorted(snapshot.names - read)
        if unused:
            raise SnapshotError(
                f"{snapshot.url} holds `{unused[0]}` and {len(unused) - 1} other entries that this model does not "
                "have; use the config that it was written with"
            )
        self._newest_step = snapshot.state.step
        return snapshot.state

    def begin(self, engine: Engine, state: RunState, *, about: About, scores: Mapping[str, float]) -> None:
        """All ranks alike: copies the state and sets a thread to write it; the one before is completed first.

        A step that has a complete one is left as it is. Raises TrainingError on all ranks when one cannot write, or
        when a value is not finite; the snapshots before stay.
        """
        self.settle()
        folder = folder_of(state.step)
        if self._exchange(folder, lambda: self._is_there(folder) if self._world.is_main else None)[0]:
            if state.step > self._newest_step:
                raise TrainingError(
                    f"{self._storage.locate(folder)} is there, but this run did not write it: another run saves to the "
                    "same place; give each its own `output` or `snapshots.url`, and start this one again"
                )
            return
        self._newest_step = state.step
        storage, share = self._storage.join(folder), self._copy_share(engine)
        self._refuse_broken(share, folder)
        written = self._thread.submit(write_share, storage, share, rank=self._world.rank)
        self._saving = _Saving(state, about, dict(scores), written)

    @property
    def is_writing(self) -> bool:
        """Whether this rank's thread still writes its share."""
        return self._saving is not None and not self._saving.share.done()

    def commit(self) -> RunState | None:
        """All ranks alike: completes the snapshot in the making, and waits for its share where it must.

        Returns its state, None where there is none in the making. Raises as `begin` does.
        """
        if self._saving is None:
            return None
        saving, self._saving = self._saving, None
        shares = self._exchange(saving.folder, saving.share.result)
        self._exchange(saving.folder, lambda: self._put_manifest(saving, shares) if self._world.is_main else None)
        if self._world.is_main:
            self._tidying = self._thread.submit(self._tidy)
        return saving.state

    def settle(self) -> RunState | None:
        """All ranks alike: as `commit`, and waits until old ones are gone."""
        state = self.commit()
        tidying, self._tidying = self._tidying, None
        self._exchange("", lambda: tidying.result() if tidying is not None else None)
        return state

    def _is_there(self, folder: str) -> bool:
        """Whether it is complete; what an interrupted writer left of it is removed."""
        if self._storage.exists(f"{folder}/{MANIFEST}"):
            return True
        self._storage.delete_folder(folder)
        return False

    def _copy_share(self, engine: Engine) -> Share:
        """Each entry goes to the rank that has the fewest bytes so far, which all ranks count alike."""
        share: Share = deque()
        loads = [0] * self._world.size
        for name, tensors in engine.entries():
            rank = loads.index(min(loads))
            loads[rank] += num_bytes(tensors)
            if rank == self._world.rank:
                share.append((name, {state: _copy(tensor) for state, tensor in tensors.items()}))
        return share

    def _refuse_broken(self, share: Share, folder: str) -> None:
        """All ranks alike: a snapshot of these values could not go on, yet would push out those that can."""
        mine = [
            f"{name}/{state}" for name, tensors in share for state, value in tensors.items() if not is_finite(value)
        ]
        broken = [
            name for text in gather_texts("\n".join(mine), world=self._world) for name in text.split("\n") if name
        ]
        if broken:
            raise TrainingError(
                f"{self._storage.locate(folder)} is not written, since `{broken[0]}` and {len(broken) - 1} other "
                "parameters or states are not finite any more; snapshots before it stay. Lower "
                "optimizer.learning_rate or raise optimizer.epsilon, and start the run again with --accept of what you "
                "changed: it goes on from the last of them, if there is one"
            )

    def _put_manifest(self, saving: _Saving, shares: list[dict[str, Any]]) -> None:
        manifest = _merge(shares, saving)
        self._storage.put(f"{saving.folder}/{MANIFEST}", manifest.model_dump_json().encode())

    def _tidy(self) -> None:
        """Removes old snapshots, and what interrupted writers left. None is in the making meanwhile."""
        complete = {int(name.removeprefix("step-")): self._score_of(name) for name in complete_folders(self._storage)}
        kept = {folder_of(step) for step in self._keep.kept(complete)}
        for old in sorted({folder_of(step) for step in complete} - kept):
            # the manifest first: from then on it is no snapshot, whatever interrupts us
            self._storage.delete(f"{old}/{MANIFEST}")
        folders = {path.partition("/")[0] for path in self._storage.list() if path.startswith("step-") and "/" in path}
        for other in sorted(folders - kept):
            self._storage.delete_folder(other)
        self._storage.delete_leftovers()

    def _score_of(self, folder: str) -> float | None:
        """Of a complete snapshot; read once, and only where it is asked for."""
        if self._keep.best and folder not in self._scores:
            self._scores[folder] = Snapshot(self._storage.join(folder)).scores.get(self._keep.score)
        return self._scores.get(folder)

    def _exchange(self, place: str, action: Callable[[], Any]) -> list[Any]:
        """What `action` gives on each rank, by rank, known to all. Raises TrainingError on all when it fails on one."""
        try:
            answer = {"value": action()}
        except STORAGE_ERRORS as error:
            answer = {"error": str(error)}
        answers = [json.loads(text) for text in gather_texts(json.dumps(answer), world=self._world)]
        failed = [f"rank {rank}: {found['error']}" for rank, found in enumerate(answers) if "error" in found]
        if failed:
            raise TrainingError(
                f"{self._storage.locate(place)}: {'; '.join(failed)}. Snapshots before it are whole; make room or "
                "restore access, and start the run again: it goes on from the last of them"
            )
        return [found["value"] for found in answers]


def folder_of(step: int) -> str:
    """Name of the folder of the snapshot of this step."""
    return f"step-{step:08d}"


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _merge(shares: list[dict[str, Any]], saving: _Saving) -> Manifest:
    """One manifest of all ranks' files and entries, numbered through."""
    files: list[FileRecord] = []
    entries: dict[str, dict[str, TensorRecord]] = {}
    for share in shares:
        first = len(files)
        files += [FileRecord.model_validate(file) for file in share["files"]]
        for name, tensors in share["entries"].items():
            entries[name] = {key: _numbered(record, first) for key, record in tensors.items()}
    return Manifest(
        step=saving.state.step,
        samples_seen=saving.state.samples_seen,
        about=saving.about,
        scores=dict(saving.scores),
        files=tuple(files),
        entries=entries,
    )


def _numbered(record: dict[str, Any], first_file: int) -> TensorRecord:
    return TensorRecord.model_validate({**record, "file": record["file"] + first_file, "shape": tuple(record["shape"])})
