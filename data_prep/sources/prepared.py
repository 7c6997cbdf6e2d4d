"""A prepared dataset as a `Source`: what `show` and `statistics` read, and `convert` when it changes the layout."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import IntegrityError
from data_prep.contract.manifest import INDEX_NAME, MANIFEST_NAME, Index, Manifest, Trajectory, load_manifest, shards_of
from data_prep.contract.pieces import Piece
from data_prep.contract.sample import FrameArray, decode_piece
from data_prep.contract.storage import Storage
from data_prep.sources.corpus_source import is_address, open_address, open_description
from data_prep.sources.protocol import InputFile, Source, SourceTrajectory
from data_prep.sources.stretches import Stretch, whole
from data_prep.sources.well import open_well


def open_source(url: str) -> Source:
    """Whatever SOURCE names: a class of one's own, a description in YAML, a prepared dataset, a folder of The Well."""
    if is_address(url):
        return open_address(url)
    if url.endswith((".yaml", ".yml")):
        return open_description(url)
    storage = Storage(url)
    return open_prepared(storage) if storage.exists(MANIFEST_NAME) else open_well(url)


def open_prepared(storage: Storage) -> "PreparedSource":
    """Read the manifest. Raises RefusedError when it is none."""
    manifest, index = load_manifest(storage)
    return PreparedSource(storage, manifest, index)


class PreparedSource:
    """Shards, read record by record through the index."""

    def __init__(self, storage: Storage, manifest: Manifest, index: Index) -> None:
        self._storage = storage
        self._index = index
        self.manifest = manifest
        self.url = storage.url
        self.spec = manifest.dataset
        self.warnings: tuple[str, ...] = ()
        self.trajectories = tuple(
            SourceTrajectory(run.split, *_file_and_number(run.source), run.times, dict(run.scalars))
            for run in manifest.trajectories
        )
        # one entry for all: the manifest's own checksum of the index stands for every shard
        facts = f"{manifest.index.bytes} {manifest.index.crc32c:08x}"
        names = {trajectory.file for trajectory in self.trajectories}
        self.files = tuple(InputFile(name, manifest.index.bytes, facts) for name in sorted(names))

    @contextmanager
    def reader(self) -> Iterator["PreparedReader"]:
        """A reader; it holds nothing open."""
        yield PreparedReader(self._storage, self.manifest, self._index)

    def checksum_of(self, file: InputFile) -> int | None:
        """Of the index, in which the checksum of every record stands."""
        del file
        return self.manifest.index.crc32c

    def unread_of(self, file: InputFile, trajectories: Iterable[SourceTrajectory]) -> tuple[Stretch, ...]:
        """All of it."""
        del trajectories
        return whole(file.bytes, self.checksum_of(file))

    def fingerprint_of(self, file: InputFile) -> str:
        """Prepared datasets do not change."""
        return file.fingerprint


class PreparedReader:
    """Fetches, checks and decodes records, piece by piece."""

    def __init__(self, storage: Storage, manifest: Manifest, index: Index) -> None:
        self._storage = storage
        self._manifest = manifest
        self._index = index
        self._runs = {run.source: run for run in manifest.trajectories}
        self._shards = shards_of(storage, manifest)
        self._pieces = manifest.pieces

    def locate(self, trajectory: SourceTrajectory) -> str:
        """The dataset, and the trajectory as its manifest names it."""
        return f"{self._storage.url}: {trajectory.name}"

    def read_frames(
        self, trajectory: SourceTrajectory, start: int, *, out: FrameArray, read: list[Stretch] | None = None
    ) -> None:
        """Fill `out`: (time, channel, *space), with the frames from `start` on."""
        del read
        run = self._runs[trajectory.name]
        for step, record in enumerate(out, start=start):
            self.read_frame(run, step, out=record)

    def read_frame(self, run: Trajectory, step: int, *, out: FrameArray) -> None:
        """Fill `out`: (channel, *space)."""
        self._read(self._pieces.frame_rows(run.first_record, step), self._pieces.of_frame, record=out)

    def read_constants(self, trajectory: SourceTrajectory, *, out: FrameArray) -> None:
        """Fill `out`: (constant channel, *space)."""
        run = self._runs[trajectory.name]
        rows = self._pieces.constant_rows(run.first_record, run.num_steps)
        self._read(rows, self._pieces.of_constants, record=out)

    @cached_property
    def _room(self) -> FrameArray:
        """For one decoded piece. Made when a payload has come: what a manifest says of sizes is but a claim."""
        return np.empty(self._pieces.largest_bytes // 4, np.float32)

    def _read(self, rows: range, pieces: tuple[Piece, ...], *, record: FrameArray) -> None:
        for row, piece in zip(rows, pieces, strict=True):
            payload = self._payload(row)
            decode_piece(payload, self._manifest.codec, piece, record=record, room=self._room)

    def _payload(self, row: int) -> bytes:
        shard_number, offset, length, crc32c = self._index[row].item()
        path = self._manifest.shards[shard_number].path
        payload = self._shards.get_range(path, offset=offset, length=length)
        if checksum(payload) != crc32c:
            raise IntegrityError(
                f"{self._shards.locate(path)}: bytes {offset} to {offset + length} are damaged (crc32c not as in "
                f"{INDEX_NAME}); run `python -m data_prep verify {self._storage.url} --shard {path}`"
            )
        return payload


def _file_and_number(source: str) -> tuple[str, int]:
    """`train/a.hdf5#3` -> (`train/a.hdf5`, 3)."""
    file, _, number = source.rpartition("#")
    return (file, int(number)) if number.isdecimal() else (source, 0)
