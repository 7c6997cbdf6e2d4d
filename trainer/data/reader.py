"""One dataset as the loader sees it: its windows, normalised, in rows of a batch."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from data_prep.contract.faults import Faults
from trainer.batch import Batch
from trainer.data.augment import Augmenter
from trainer.data.cache import Cache
from trainer.data.dataset import Dataset
from trainer.data.normalise import Normaliser
from trainer.data.order import MicroBatch
from trainer.data.requests import Cost
from trainer.data.ring import Scratch
from trainer.data.source import Source, Values
from trainer.data.windows import Window
from trainer.errors import DataError, RefusedError


class WindowReader:
    """Fills batches of one dataset. Threads may share it; no two may fill the same row."""

    def __init__(
        self,
        source: Source,
        *,
        normaliser: Normaliser,
        field_ids: Mapping[str, int],
        augmenter: Augmenter | None = None,
    ) -> None:
        """Without an `augmenter` windows come as they are stored."""
        dataset = source.dataset
        self.shape = dataset.window_shape(source.frames)
        """(time, channel, *space) of a window."""
        self._source = source
        self._normaliser = normaliser
        self._field_ids = torch.tensor(_rows(dataset, field_ids))
        self._is_target = torch.tensor(dataset.is_target)
        self._augmenter = augmenter

    @property
    def faults(self) -> Faults:
        """What went wrong in its storage so far."""
        return self._source.dataset.storage.faults

    @property
    def cache(self) -> Cache | None:
        """Where records are kept that were fetched; readers may share it."""
        return self._source.cache

    def empty_batch(self, micro_batch: MicroBatch, fields: Tensor) -> Batch:
        """The batch whose rows are to be read into `fields` (batch, time, channel, *space)."""
        dataset, size = self._source.dataset, len(micro_batch.windows)
        has_gaps = any(self._has_gaps(window) for window in micro_batch.windows)
        return Batch(
            dataset=dataset.name,
            channels=dataset.channels,
            fields=fields,
            scale=torch.empty(size, len(dataset.channels)),
            shift=torch.empty(size, len(dataset.channels)),
            field_ids=self._field_ids,
            is_target=self._is_target,
            time_step=torch.empty(size),
            boundary=self._boundary(micro_batch.draw),
            windows=micro_batch.positions,
            draw=micro_batch.draw,
            valid=torch.empty(fields.shape, dtype=torch.bool) if has_gaps else None,
            step=micro_batch.step,
            transforms=self._normaliser.transforms,
            scalars={
                name: torch.tensor([dataset.scalar(name, window) for window in micro_batch.windows])
                for name in dataset.manifest.dataset.scalars
            },
        )

    def read(self, batch: Batch, row: int, *, window: Window, scratch: Scratch) -> Cost:
        """Fill one row: fields, scale, shift, time step and what is valid. Raises what `Source.read` does."""
        if batch.valid is None and self._has_gaps(window):
            raise DataError("this batch has no room for what is not finite")  # of a window that would replace another
        out = batch.fields[row].numpy()
        on_frame = self._normaliser.of_frame if self._augmenter is None and batch.valid is None else None
        cost = self._source.read(window, out=out, scratch=scratch, on_frame=on_frame)
        if self._augmenter is not None:
            self._augmenter.move(out, draw=batch.draw, position=batch.windows[row], scratch=scratch)
        batch.time_step.numpy()[row] = self._source.dataset.time_step(window, frames=self._source.frames)
        scale, shift = self._normaliser.scale, self._normaliser.shift
        if on_frame is None:
            scale, shift = self._normalise(batch, row, window)
        batch.scale.numpy()[row], batch.shift.numpy()[row] = scale, shift
        return cost

    def _normalise(self, batch: Batch, row: int, window: Window) -> tuple[Values, Values]:
        """Once all of the window is there; gives its scale and shift, each (channel,)."""
        out = batch.fields[row].numpy()
        valid = None if batch.valid is None else np.isfinite(out, out=batch.valid[row].numpy())
        try:
            return self._normaliser.apply(out, valid)
        except RefusedError as error:
            source = self._source.dataset.trajectories[window.trajectory].source
            raise RefusedError(
                f"dataset {batch.dataset}, window from frame {window.start} of {source}: {error}"
            ) from error

    def _boundary(self, draw: int) -> tuple[tuple[str, str], ...]:
        """(low, high) side of each axis of space, of all windows of the step with this draw."""
        sides = self._source.dataset.shown.boundaries if self._augmenter is None else self._augmenter.sides(draw)
        return tuple((low.value, high.value) for low, high in sides)

    def _has_gaps(self, window: Window) -> bool:
        return bool(self._source.dataset.trajectories[window.trajectory].not_finite)


def _rows(dataset: Dataset, field_ids: Mapping[str, int]) -> list[int]:
    missing = [channel for channel in dataset.channels if channel not in field_ids]
    if missing:
        raise RefusedError(
            f"{dataset.storage.url}: dataset {dataset.name} has fields that the model's table does not: "
            f"{', '.join(missing)}; it knows {', '.join(field_ids)}. Train on datasets with these fields"
        )
    return [field_ids[channel] for channel in dataset.channels]
