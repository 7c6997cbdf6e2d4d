"""Values of The Well's HDF5 files -> the caller's fused buffer, in the order of the file.

Arrays that lie in a file of this machine as plain float32 are read by plain reads, straight to their place where they
are scalars, and where it is asked for their checksums are taken on the way; all others through HDF5.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from data_prep.contract.checksum import extend_checksum
from data_prep.contract.errors import CutShortError, RefusedError
from data_prep.contract.local import OnFull
from data_prep.contract.sample import FrameArray
from data_prep.contract.storage import Storage
from data_prep.sources.hdf5_node import RUN_BYTES, HdfNode, open_hdf5
from data_prep.sources.protocol import SourceTrajectory
from data_prep.sources.room import Room
from data_prep.sources.stretches import Stretch
from data_prep.sources.well_header import FieldLayout, Header


class WellReader:
    """Keeps one file open at a time."""

    def __init__(self, data: Storage, headers: Mapping[str, Header]) -> None:
        self._data = data
        self._headers = headers
        self._open_path: str | None = None
        self._root: HdfNode | None = None
        self._stack = ExitStack()
        self._room = Room()
        self._places: dict[str, int | None] = {}
        """Of the open file, by array: the first byte of its values where they lie plainly."""

    def close(self) -> None:
        """Close the open file, if there is one."""
        self._stack.close()
        self._open_path, self._root, self._places = None, None, {}

    def locate(self, trajectory: SourceTrajectory) -> str:
        """`/corpora/euler/data/train/a.hdf5#3`."""
        return self._data.locate(trajectory.name)

    def read_frames(
        self, trajectory: SourceTrajectory, start: int, *, out: FrameArray, read: list[Stretch] | None = None
    ) -> None:
        """Fill `out`: (time, channel, *space), with the frames from `start` on."""
        root, frames = self._file(trajectory.file), slice(start, start + len(out))
        layouts = self._headers[trajectory.file].fields
        runs = [(trajectory.number,) if layout.is_sample_varying else () for layout in layouts]
        root.expect([(layout.place, (*run, frames)) for layout, run in zip(layouts, runs, strict=True)])
        for layout, run in zip(layouts, runs, strict=True):
            place = self.plain_place(trajectory, layout)
            if place is not None:
                noted = read if layout.is_sample_varying else None
                self._read_plainly(trajectory, layout, place + start * layout.step_bytes, out=out, read=noted)
                continue
            for first, values in root.runs(layout.place, run, frames):
                _spread(values, layout, out=out[first : first + len(values)])

    def read_constants(self, trajectory: SourceTrajectory, *, out: FrameArray) -> None:
        """Fill `out`: (constant channel, *space)."""
        root = self._file(trajectory.file)
        for layout in self._headers[trajectory.file].constant_fields:
            selection = (trajectory.number,) if layout.is_sample_varying else ()
            values = root.values(layout.place, selection)
            _spread(values[np.newaxis], layout, out=out[np.newaxis])

    def plain_place(self, trajectory: SourceTrajectory, layout: FieldLayout) -> int | None:
        """The first byte of a trajectory's values of a field; None where they must be read through HDF5."""
        root = self._file(trajectory.file)
        if layout.place not in self._places:
            self._places[layout.place] = root.plain_place(layout.place) if self._data.is_local else None
        if (offset := self._places[layout.place]) is None:
            return None
        return offset + layout.is_sample_varying * trajectory.number * trajectory.num_steps * layout.step_bytes

    def _read_plainly(
        self,
        trajectory: SourceTrajectory,
        layout: FieldLayout,
        first_byte: int,
        *,
        out: FrameArray,
        read: list[Stretch] | None,
    ) -> None:
        """Fill one field's channels of `out`. What came is looked at while it is in the processor's cache."""
        crc32c = 0

        def note(came: memoryview) -> None:
            nonlocal crc32c
            if read is not None:
                crc32c = extend_checksum(crc32c, came)

        if layout.num_components == 1 and layout.kept_shape == out.shape[2:]:
            planes = [_bytes_of(step[layout.first_channel]) for step in out]
            self._fill(trajectory.file, *planes, offset=first_byte, on_full=lambda number: note(planes[number]))
        else:
            stride = max(1, RUN_BYTES // layout.step_bytes)
            for first in range(0, len(out), stride):
                steps = out[first : first + stride]
                room = self._room.take(len(steps) * layout.step_bytes).data
                self._fill(trajectory.file, room, offset=first_byte + first * layout.step_bytes)
                note(room)
                _spread(np.frombuffer(room, np.float32).reshape(len(steps), -1), layout, out=steps)
        if read is not None:
            read.append(Stretch(first_byte, len(out) * layout.step_bytes, crc32c))

    def _fill(self, path: str, *rooms: memoryview, offset: int, on_full: OnFull | None = None) -> None:
        try:
            self._data.read_into(path, *rooms, offset=offset, on_full=on_full)
        except CutShortError as error:
            raise RefusedError(f"{error}; it was cut while it was read: convert when it is complete") from error

    def _file(self, path: str) -> HdfNode:
        if self._root is None or self._open_path != path:
            self.close()
            self._root = self._stack.enter_context(open_hdf5(self._data, path))
            self._open_path = path
        return self._root


def _bytes_of(plane: FrameArray) -> memoryview:
    return plane.reshape(-1).view(np.uint8).data


def _spread(values: np.ndarray[Any, Any], layout: FieldLayout, *, out: FrameArray) -> None:
    """Stored field (time, *kept space, *tensor) -> its channels of `out`: (time, channel, *space)."""
    components = values.reshape(len(values), *layout.kept_shape, layout.num_components)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which the caller reports
        for component in range(layout.num_components):
            out[:, layout.first_channel + component] = components[..., component]
