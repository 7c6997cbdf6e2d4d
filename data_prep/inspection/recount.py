"""What a manifest says of the values, counted again from the values themselves while `verify` reads them.

Statistics of the train split, and how many values of each trajectory are not finite. By the arithmetic of the
conversion, but merged in other parts, so that only what is beyond rounding counts as different. Memory is bounded:
neighbouring frames are gathered in one block.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from data_prep.contract.errors import IntegrityError, NotFoundError
from data_prep.contract.manifest import MANIFEST_NAME, Manifest
from data_prep.contract.sample import FrameArray
from data_prep.numbers.statistics import FrameMoments
from data_prep.sources.prepared import PreparedReader
from data_prep.sources.reading import ByChannel, by_channel, count_not_finite, describe_counts

BLOCK_BYTES = 2**23
"""Of neighbouring frames that are counted at once."""
TOLERANCE = 1e-9
"""Of the rms, or of that of differences: more than the order of sums in float64 changes, and far below any use."""


class Recount:
    """Told of every record once, best in the order of the index; then says what the manifest has otherwise."""

    def __init__(self, manifest: Manifest, reader: PreparedReader) -> None:
        spec = manifest.dataset
        self._manifest = manifest
        self._reader = reader
        """For a frame before those that come, where the shards are in another order."""
        self._moments = FrameMoments.none(len(spec.channels))
        self._constant_moments = FrameMoments.none(len(spec.constant_channels))
        self._not_finite = np.zeros(
            (len(manifest.trajectories), len(spec.channels) + len(spec.constant_channels), 2), np.int64
        )
        self._trajectory, self._first, self._num_gathered = 0, 0, 0
        self._num_missing = sum(run.num_steps + bool(spec.constant_fields) for run in manifest.trajectories)
        self._has_neighbours = True

    @cached_property
    def _block(self) -> FrameArray:
        """The frame before those that are gathered, then these. Made for the first frame that there really is."""
        num_frames = max(1, BLOCK_BYTES // self._manifest.frame_bytes)
        return np.empty((1 + num_frames, *self._manifest.dataset.frame_shape), np.float32)

    def add_frame(self, trajectory: int, frame: int, values: FrameArray) -> None:
        """One whole frame: (channel, *space)."""
        follows = (trajectory, frame) == (self._trajectory, self._first + self._num_gathered)
        if not follows or self._num_gathered == len(self._block) - 1:
            self._count_gathered()
            if follows:
                self._block[0] = self._block[self._num_gathered]
            elif frame > 0:
                self._fetch(trajectory, frame - 1)
            self._trajectory, self._first, self._num_gathered = trajectory, frame, 0
        self._num_gathered += 1
        self._block[self._num_gathered] = values
        self._num_missing -= 1

    def add_constants(self, trajectory: int, values: FrameArray) -> None:
        """The constants of one trajectory: (constant channel, *space)."""
        num_channels = len(self._manifest.dataset.channels)
        counts = count_not_finite(values[np.newaxis])
        self._not_finite[trajectory, num_channels:] += 0 if counts is None else counts
        if self._manifest.trajectories[trajectory].split == "train":
            self._constant_moments = self._constant_moments.merge(FrameMoments.of(values[np.newaxis]))
        self._num_missing -= 1

    def is_complete(self) -> bool:
        """Whether every record was added."""
        return self._num_missing == 0 and self._has_neighbours

    def differences(self) -> Iterator[str]:
        """What the manifest has otherwise; asked when all were added."""
        self._count_gathered()
        yield from self._statistics_that_differ()
        for number, run in enumerate(self._manifest.trajectories):
            found = self._not_finite_of(number)
            if found != run.not_finite:
                yield (
                    f"{MANIFEST_NAME}: trajectories.{number}.not_finite is "
                    f"{describe_counts(run.not_finite) or 'nothing'}, but in the shards {run.source} has "
                    f"{describe_counts(found) or 'finite values alone'}"
                )

    def _count_gathered(self) -> None:
        frames = self._block[1 : 1 + self._num_gathered]
        if not len(frames):
            return
        num_channels = len(self._manifest.dataset.channels)
        counts = count_not_finite(frames)
        self._not_finite[self._trajectory, :num_channels] += 0 if counts is None else counts
        if self._manifest.trajectories[self._trajectory].split == "train":
            before = self._block[:1] if self._first > 0 else None
            self._moments = self._moments.merge(FrameMoments.of(frames, before))

    def _fetch(self, trajectory: int, frame: int) -> None:
        """The frame before one that comes without it."""
        try:
            self._reader.read_frame(self._manifest.trajectories[trajectory], frame, out=self._block[0])
        except (IntegrityError, NotFoundError):  # its own shard's fault, and reported there
            self._has_neighbours = False

    def _statistics_that_differ(self) -> Iterator[str]:
        spec, stored = self._manifest.dataset, self._manifest.statistics
        found = self._moments.records(spec.channels) | self._constant_moments.records(spec.constant_channels)
        for channel, moments in found.items():
            for key, value in moments.__dict__.items():
                scale = moments.rms_delta if key.endswith("_delta") else moments.rms
                if abs(stored[channel].__dict__[key] - value) > TOLERANCE * scale:
                    yield (
                        f"{MANIFEST_NAME}: statistics.{channel}.{key} is {stored[channel].__dict__[key]!r}, but the "
                        f"values in the shards have {value!r}"
                    )

    def _not_finite_of(self, number: int) -> ByChannel:
        spec = self._manifest.dataset
        return by_channel(spec.channels + spec.constant_channels, self._not_finite[number])
