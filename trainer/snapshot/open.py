"""Reading snapshots: by an engine that goes on, or by one process that wants the weights."""

import re

import torch
from torch import Tensor

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import NotFoundError
from data_prep.contract.storage import Storage
from trainer.errors import SnapshotError
from trainer.interfaces import AVERAGE
from trainer.snapshot.manifest import DTYPES, MANIFEST, MAX_BYTES, About, TensorRecord, parse_manifest
from trainer.snapshot.shards import LENGTH_BYTES, Place, first_byte, places_of
from trainer.snapshot.state import RunState

FOLDER = "snapshots"
"""Inside a run folder."""
CURE = "; remove this snapshot's folder to go on from the one before"
CURE_OF_EXPORT = "; export the snapshot again"

MAX_HEADER_BYTES = 2**26
"""Of a safetensors file, which has few tensors or large ones."""

_MANIFEST_PATH = re.compile(rf"^(step-\d{{8,12}})/{re.escape(MANIFEST)}$")


class Snapshot:
    """A complete snapshot. Made by `open_snapshot`; tensors are read when asked for."""

    def __init__(self, storage: Storage) -> None:
        """Reads the manifest and compares it with the files that are there. Raises SnapshotError."""
        self._storage = storage
        data = _whole_manifest(storage)
        self._manifest = parse_manifest(data, place=storage.locate(MANIFEST))
        self._headers: dict[int, dict[str, Place]] = {}
        self.digest = f"{checksum(data):08x}"
        """crc32c of the manifest, which holds those of all tensors."""
        for file in self._manifest.files:
            _check_size(storage, file.path, expected=file.bytes, cure=self._cure)

    @property
    def url(self) -> str:
        return self._storage.url

    @property
    def state(self) -> RunState:
        return RunState(step=self._manifest.step, samples_seen=self._manifest.samples_seen)

    @property
    def is_export(self) -> bool:
        """Whether it holds weights alone."""
        return self._manifest.is_export

    @property
    def _cure(self) -> str:
        """For messages on what is wrong with its files."""
        return CURE_OF_EXPORT if self.is_export else CURE

    @property
    def about(self) -> About:
        """The run that wrote it."""
        return self._manifest.about

    @property
    def scores(self) -> dict[str, float]:
        """Of the evaluation at this step; empty where there was none."""
        return dict(self._manifest.scores)

    @property
    def names(self) -> frozenset[str]:
        """All parameters and buffers."""
        return frozenset(self._manifest.entries)

    def layout(self, name: str) -> tuple[torch.Size, torch.dtype]:
        """Shape and type of a weight or buffer, by the manifest alone."""
        record = self._entry(name)["weight"]
        return torch.Size(record.shape), DTYPES[record.dtype]

    def read(self, name: str) -> dict[str, Tensor]:
        """Weight and optimiser states of one parameter or buffer."""
        if name not in self._manifest.entries:
            raise SnapshotError(
                f"{self.url} has no entry `{name}`, which this model needs; use the config that it was written with"
            )
        return {state: self._tensor(record, name, state) for state, record in self._entry(name).items()}

    def weights(self, *, average: bool = False) -> dict[str, Tensor]:
        """All parameters and buffers, float32: what `load_state_dict` takes. `average`: see `weight`."""
        return {name: self.weight(name, average=average) for name in self._manifest.entries}

    def weight(self, name: str, *, average: bool = False) -> Tensor:
        """One parameter or buffer. `average`: its moving average, where it has one (frozen ones and buffers do not).

        Raises SnapshotError where the run kept no averages.
        """
        if average and not any(AVERAGE in states for states in self._manifest.entries.values()):
            raise SnapshotError(f"{self.url} has no averaged weights: optimizer.average_decay of its run is null")
        states = self._entry(name)
        kind = AVERAGE if average and AVERAGE in states else "weight"
        return self._tensor(states[kind], name, kind)

    def _entry(self, name: str) -> dict[str, TensorRecord]:
        return self._manifest.entries[name]

    def _header(self, number: int) -> dict[str, Place]:
        """Where a file itself says that its tensors lie; read once."""
        if number not in self._headers:
            file = self._manifest.files[number]
            try:
                begin = first_byte(self._storage.get_range(file.path, offset=0, length=min(LENGTH_BYTES, file.bytes)))
                if begin > min(file.bytes, MAX_HEADER_BYTES):
                    raise ValueError(f"its header would end at byte {begin} of {file.bytes}")
                header = self._storage.get_range(file.path, offset=LENGTH_BYTES, length=begin - LENGTH_BYTES)
                self._headers[number] = places_of(header, begin=begin)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise SnapshotError(
                    f"{self._storage.locate(file.path)}: is no safetensors file: {error}{self._cure}"
                ) from error
        return self._headers[number]

    def _tensor(self, record: TensorRecord, name: str, state: str) -> Tensor:
        label = name if self.is_export else f"{name}/{state}"
        path = self._manifest.files[record.file].path
        if self._header(record.file).get(label) != (record.offset, record.bytes, record.dtype, record.shape):
            raise SnapshotError(
                f"{self._storage.locate(path)}: holds `{label}` elsewhere, or otherwise, than the manifest says"
                f"{self._cure}"
            )
        data = self._storage.get_range(path, offset=record.offset, length=record.bytes)
        found = checksum(data)
        if found != record.crc32c:
            raise SnapshotError(
                f"{self._storage.locate(path)}: crc32c of `{label}` is {found:08x} but the manifest says "
                f"{record.crc32c:08x}{self._cure}"
            )
        if not data:
            return torch.empty(record.shape, dtype=DTYPES[record.dtype])
        return torch.frombuffer(bytearray(data), dtype=DTYPES[record.dtype]).reshape(record.shape)


def open_snapshot(url: str) -> Snapshot:
    """The snapshot in this folder, or the latest one of a run folder or of a run's `snapshots.url`.

    Raises SnapshotError.
    """
    storage = Storage(url)
    if storage.exists(MANIFEST):
        return Snapshot(storage)
    for place in (storage.join(FOLDER), storage):
        folder = latest_folder(place)
        if folder is not None:
            return Snapshot(place.join(folder))
    raise SnapshotError(
        f"{url} is neither a snapshot (no {MANIFEST}) nor a run folder with one (no {FOLDER}/step-*/{MANIFEST}); "
        "give the `output` of a run that has written one, or its `snapshots.url` if it has one"
    )


def read_weights(url: str) -> dict[str, Tensor]:
    """Weights by name from a snapshot or the latest one of a run folder. Raises SnapshotError."""
    return open_snapshot(url).weights()


def complete_folders(storage: Storage) -> list[str]:
    """Folders of complete snapshots in the snapshots folder of a run, oldest first."""
    found = [match[1] for path in storage.list() if (match := _MANIFEST_PATH.match(path))]
    return sorted(found, key=lambda name: int(name.removeprefix("step-")))


def latest_folder(storage: Storage) -> str | None:
    """The newest complete one."""
    folders = complete_folders(storage)
    return folders[-1] if folders else None


def _whole_manifest(storage: Storage) -> bytes:
    try:
        return storage.get(MANIFEST, max_bytes=MAX_BYTES)
    except NotFoundError as error:
        raise SnapshotError(
            f"{storage.url}: no {MANIFEST}; it is no snapshot, or its writer was interrupted"
        ) from error


def _check_size(storage: Storage, path: str, *, expected: int, cure: str) -> None:
    try:
        found = storage.size(path)
    except NotFoundError as error:
        raise SnapshotError(f"{storage.locate(path)} is missing, but the manifest names it{cure}") from error
    if found != expected:
        raise SnapshotError(f"{storage.locate(path)} has {found} bytes, but the manifest says {expected}{cure}")
