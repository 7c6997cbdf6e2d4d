"""The layout `reference`: nothing is written but the manifest, whose rows point into the source's own files.

A record is not stored whole but as its fields, each of them where and as the source's file has it (`Pieces`).
"""

from data_prep.contract.checksum import checksum, checksum_of_records
from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import Shard
from data_prep.contract.pieces import Piece
from data_prep.contract.sample import FrameArray
from data_prep.contract.storage import Storage
from data_prep.layouts.shard import BuiltShard, Record
from data_prep.planning.plan import Plan, Segment, Unit
from data_prep.sources.origin import Origin
from data_prep.sources.protocol import Source
from data_prep.sources.well import WellSource


def origin_of(source: Source, destination: Storage) -> Origin:
    """Where the values of a source lie. Raises RefusedError where they cannot be referred to from `destination`."""
    if not isinstance(source, WellSource):
        raise RefusedError(f"--reference: {source.url} is no folder of HDF5 files; take --format zarr or webdataset")
    if Storage(source.url).is_local and not destination.is_local:
        raise RefusedError(
            f"--reference: {destination.url} is in an object store, from where nobody finds the folder {source.url} of "
            "this machine; give a local DEST, or copy the source there first"
        )
    return source.origin()


class ReferenceBuilder:
    """Takes the checksum of each record of one source file where it lies. The unit's path is the file's."""

    def __init__(self, plan: Plan, unit: Unit, origin: Origin) -> None:
        self._plan = plan
        self._unit = unit
        self._origin = origin
        self._records: list[Record] = []
        self._file = origin.files[plan.trajectories[unit.segments[0].trajectory].file]

    def place_of(self, segment: Segment) -> None:
        """Nothing is written."""
        del segment

    def add(self, segment: Segment, frames: FrameArray, *, constants: FrameArray | None) -> None:
        """Note the segment's records."""
        run, pieces = self._plan.trajectories[segment.trajectory].number, self._plan.pieces
        for step, frame in enumerate(frames, start=segment.start):
            rows = self._plan.frame_rows(segment.trajectory, step)
            self._note(
                frame, rows, pieces.of_frame, offsets=[place.offset_of(run, step) for place in self._file.fields]
            )
        if constants is not None:
            rows = self._plan.constant_rows(segment.trajectory)
            self._note(
                constants,
                rows,
                pieces.of_constants,
                offsets=[place.offset_of(run, 0) for place in self._file.constant_fields],
            )

    def finish(self) -> BuiltShard:
        """The file as it is. Raises RefusedError when other bytes than these values lie where HDF5 says they do."""
        records = sorted(self._records, key=lambda record: record.row)
        width = len(self._plan.pieces.of_frame + self._plan.pieces.of_constants)
        self._refuse_other_values([*records[:width], *records[-width:]])
        crc32c = checksum_of_records([record.crc32c for record in records])
        return BuiltShard(Shard(path=self._unit.path, bytes=self._file.bytes, crc32c=crc32c), tuple(records), None)

    def _refuse_other_values(self, records: list[Record]) -> None:
        source = Storage(self._origin.reference.url)
        for record in records:
            payload = source.get_range(self._unit.path, offset=record.offset, length=record.bytes)
            if checksum(payload) != record.crc32c:
                raise RefusedError(
                    f"{source.locate(self._unit.path)}: at byte {record.offset} lie other values than HDF5 reads "
                    "there; convert this dataset with `--format zarr` instead"
                )

    def _note(self, record: FrameArray, rows: range, pieces: tuple[Piece, ...], *, offsets: list[int]) -> None:
        for row, piece, offset in zip(rows, pieces, offsets, strict=True):
            self._records.append(Record(row, offset, piece.num_bytes, checksum(piece.take(record))))
