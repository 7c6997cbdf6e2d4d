"""Saves snapshots of a run, finds the latest one, and removes old ones. Every method is called by all ranks alike."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from data_prep.contract.storage import Storage
from trainer.collectives import gather_texts
from trainer.errors import SnapshotError, TrainingError
from trainer.interfaces import Engine
from trainer.snapshot.manifest import MANIFEST, FileRecord, Manifest, TensorRecord
from trainer.snapshot.open import Snapshot, complete_folders, latest_folder
from trainer.snapshot.shards import STORAGE_ERRORS, ShardWriter
from trainer.snapshot.state import RunState
from trainer.world import World


class Snapshots:
    """The snapshots of one run."""

    def __init__(self, url: str, *, keep_last: int, world: World) -> None:
        """`url`: the folder `snapshots` of the run folder."""
        self._storage, self._keep_last, self._world = Storage(url), keep_last, world

    def latest(self) -> Snapshot | None:
        """The newest complete one; rank 0 looks, so that all ranks open the same."""
        folder = self._exchange("", lambda: latest_folder(self._storage) if self._world.is_main else None)[0]
        return None if folder is None else Snapshot(self._storage.join(folder))

    def load(self, snapshot: Snapshot, engine: Engine) -> RunState:
        """Before the engine's first step. Raises SnapshotError when the snapshot is of another model."""
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
        return snapshot.state

    def save(self, engine: Engine, state: RunState, *, config_text: str, field_names: Sequence[str]) -> None:
        """Writes `step-…`: all ranks their shares, then rank 0 the manifest, then old ones go.

        A step that has a complete one is left as it is. Raises TrainingError on all ranks when one rank cannot
        write; the snapshots before stay.
        """
        folder = f"step-{state.step:08d}"
        if self._exchange(folder, lambda: self._is_there(folder) if self._world.is_main else None)[0]:
            return
        shares = self._exchange(folder, self._write_share(engine, folder).finish)
        manifest = _merge(shares, state=state, config_text=config_text, field_names=field_names)
        self._exchange(folder, lambda: self._commit(folder, manifest) if self._world.is_main else None)

    def _is_there(self, folder: str) -> bool:
        """Whether it is complete; what an interrupted writer left of it is removed."""
        if self._storage.exists(f"{folder}/{MANIFEST}"):
            return True
        self._storage.delete_folder(folder)
        return False

    def _write_share(self, engine: Engine, folder: str) -> ShardWriter:
        """Each entry goes to the rank that has the fewest bytes so far, which all ranks count alike."""
        writer = ShardWriter(self._storage.join(folder), rank=self._world.rank)
        loads = [0] * self._world.size
        for name, tensors in engine.entries():
            rank = loads.index(min(loads))
            loads[rank] += sum(tensor.nbytes for tensor in tensors.values())
            if rank == self._world.rank:
                writer.add(name, tensors)
        return writer

    def _commit(self, folder: str, manifest: Manifest) -> None:
        self._storage.put(f"{folder}/{MANIFEST}", manifest.model_dump_json().encode())
        complete = complete_folders(self._storage)
        for old in complete[: -self._keep_last]:
            # the manifest first: from then on it is no snapshot, whatever interrupts us
            self._storage.delete(f"{old}/{MANIFEST}")
        kept = set(complete[-self._keep_last :])
        folders = {path.partition("/")[0] for path in self._storage.list() if path.startswith("step-") and "/" in path}
        for other in sorted(folders - kept):
            self._storage.delete_folder(other)
        self._storage.delete_leftovers()

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


def _merge(shares: list[dict[str, Any]], *, state: RunState, config_text: str, field_names: Sequence[str]) -> Manifest:
    """One manifest of all ranks' files and entries, numbered through."""
    files: list[FileRecord] = []
    entries: dict[str, dict[str, TensorRecord]] = {}
    for share in shares:
        first = len(files)
        files += [FileRecord.model_validate(file) for file in share["files"]]
        for name, tensors in share["entries"].items():
            entries[name] = {key: _numbered(record, first) for key, record in tensors.items()}
    return Manifest(
        step=state.step,
        samples_seen=state.samples_seen,
        config=config_text,
        field_names=tuple(field_names),
        files=tuple(files),
        entries=entries,
    )


def _numbered(record: dict[str, Any], first_file: int) -> TensorRecord:
    return TensorRecord.model_validate({**record, "file": record["file"] + first_file, "shape": tuple(record["shape"])})
