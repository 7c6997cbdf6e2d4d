"""The layout `webdataset`: tar shards that `webdataset.WebDataset(url).decode()` reads as they are.

A sample is one stretch of one trajectory: `.json` (what it is), `.fields.npy` (float32 (time, channel, *space)) and,
where the dataset has constant fields, `.constants.npy`. webdataset's own TarWriter writes them; our index points at
each frame inside the arrays, which is possible because they are not compressed.
"""

import io
import json
import tarfile

import numpy as np
from webdataset import TarWriter

from data_prep.contract.checksum import checksum
from data_prep.contract.sample import FrameArray
from data_prep.layouts.shard import BuiltShard, Record
from data_prep.planning.plan import Plan, Segment, Unit


class TarShardBuilder:
    """Builds one tar in memory. The same input gives the same bytes: no times, no users."""

    def __init__(self, plan: Plan, unit: Unit) -> None:
        self._plan = plan
        self._unit = unit
        self._stream = io.BytesIO()
        self._tar = TarWriter(self._stream, encoder=False, mtime=0, user="", group="")
        self._payloads: dict[str, list[tuple[int, int]]] = {}
        """Member name -> (row of the index, crc32c) of each record in it, in order."""

    def place_of(self, segment: Segment) -> None:
        """The arrays of a tar are written by NumPy."""
        del segment

    def add(self, segment: Segment, frames: FrameArray, *, constants: FrameArray | None) -> None:
        """Append one sample."""
        run = self._plan.trajectories[segment.trajectory]
        key = f"{run.split}-{segment.trajectory:06d}-{segment.start:06d}"
        first_row = self._plan.first_records[segment.trajectory] + segment.start  # a frame is one piece here
        sample = {"__key__": key, "json": self._facts(segment), "fields.npy": npy_bytes(frames)}
        rows = range(first_row, first_row + len(frames))
        self._payloads[f"{key}.fields.npy"] = [(row, checksum(frame)) for row, frame in zip(rows, frames, strict=True)]
        if constants is not None:
            sample["constants.npy"] = npy_bytes(constants)
            if segment.start == 0:  # later samples repeat it for readers of single samples; one is in the index
                (row,) = self._plan.constant_rows(segment.trajectory)
                self._payloads[f"{key}.constants.npy"] = [(row, checksum(constants))]
        self._tar.write(sample)

    def finish(self) -> BuiltShard:
        """The whole tar, and where the records lie in it."""
        self._tar.close()
        self._stream.seek(0)
        records: list[Record] = []
        with tarfile.open(fileobj=self._stream, mode="r:") as tar:
            for member in tar:
                records.extend(self._records(member))
        return BuiltShard.of(self._unit.path, self._stream.getbuffer(), records)

    def _records(self, member: tarfile.TarInfo) -> list[Record]:
        payloads = self._payloads.get(member.name, [])
        if not payloads:
            return []
        self._stream.seek(member.offset_data)
        np.lib.format.read_magic(self._stream)
        np.lib.format.read_array_header_1_0(self._stream)
        first = self._stream.tell()
        length = (member.offset_data + member.size - first) // len(payloads)
        return [
            Record(row=row, offset=first + number * length, bytes=length, crc32c=crc32c)
            for number, (row, crc32c) in enumerate(payloads)
        ]

    def _facts(self, segment: Segment) -> bytes:
        """What a reader of a single sample needs to know."""
        run, spec = self._plan.trajectories[segment.trajectory], self._plan.spec
        window = slice(segment.start, segment.stop)
        scalars = {key: value[window] if isinstance(value, tuple) else value for key, value in run.scalars.items()}
        facts = {
            "dataset": spec.name,
            "trajectory": run.name,
            "first_frame": segment.start,
            "num_steps": run.num_steps,
            "times": run.times[window],
            "scalars": scalars,
            "channels": spec.channels,
            "constant_channels": spec.constant_channels,
            "spatial_dims": spec.spatial_dims,
            "grid_type": spec.grid_type,
            "boundaries": spec.boundaries,
        }
        return json.dumps(facts, separators=(",", ":")).encode()


def npy_bytes(array: FrameArray) -> bytes:
    """A NumPy file, format 1.0, whose values begin at a multiple of 64 bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
