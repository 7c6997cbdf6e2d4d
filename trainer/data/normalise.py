"""Fields to numbers near one, and back, from the statistics of the train split.

normalised = (x - shift) / scale, in place; `Batch.physical` inverts it. A scale is never so small that it would only
blow up rounding noise. The components of a vector or tensor may share one scale: then turning a window and normalising
it commute, and differences of frames keep their direction.

A scalar may be transformed first. The manifest's statistics are of the field itself and do not say what those of its
transform are; so the scale is what a log-normal field of this mean and std has (true of any field whose std is small),
and for asinh what holds to first order about the mean. That makes numbers near one about zero, not exactly of std one.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from data_prep.contract.manifest import Moments
from trainer.config.schema import DataConfig
from trainer.data.dataset import Dataset
from trainer.errors import RefusedError
from trainer.scaling import Transform, TransformKind

Kind = Literal["standard", "rms", "window_rms"]
Values = np.ndarray[Any, np.dtype[np.float32]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

NOISE_FLOOR = 1e-6
"""Smallest scale, relative to the channel's rms: below it lies what float32 cannot tell apart."""

QUIET_FLOOR = 1e-2
"""Smallest scale of `window_rms`, relative to the channel's rms over the train split: a window that begins at rest
must not make giants of the frames that follow."""


class Components(NamedTuple):
    """The channels of one vector or tensor, which have one scale."""

    first: int
    end: int
    rank: int


@dataclass(frozen=True)
class Normaliser:
    """The map of one dataset's channels."""

    scale: Values
    """(channel,) in the units of the source; of a transformed channel without one."""
    shift: Values
    """(channel,) as the scale."""
    quiet_scale: Values | None = None
    """(channel,) where the scale is the window's own, the least that it may be."""
    transforms: tuple[Transform, ...] = ()
    """Before all else."""
    shared: tuple[tuple[int, int], ...] = ()
    """Channels from a first one to before another, whose own scale is one for all of them."""

    def apply(self, fields: Values, valid: Mask | None = None) -> tuple[Values, Values]:
        """Normalise one window (time, channel, *space) in place; gives its scale and shift, each (channel,).

        `valid`, of the same shape, marks the values that are finite: the others count for nothing and become 0.
        Raises RefusedError for values that have no logarithm.
        """
        if valid is not None:
            fields[~valid] = 0  # before any arithmetic, which would complain
        for transform in self.transforms:
            _transform(fields, transform, valid)
        scale = self.scale
        if self.quiet_scale is not None:
            scale = np.maximum(self._own_rms(fields[0], None if valid is None else valid[0]), self.quiet_scale)
        scale_frame = self._scaling(scale)
        for frame in fields:  # one by one, so that the second pass finds in the processor's cache what the first wrote
            scale_frame(frame)
        if valid is not None:
            fields[~valid] = 0
        return scale, self.shift

    @property
    def of_frame(self) -> Callable[[Values], None] | None:
        """The same for one finite frame (channel, *space), in place; None where the map depends on the window."""
        return None if self.transforms or self.quiet_scale is not None else self._scaling(self.scale)

    def _scaling(self, scale: Values) -> Callable[[Values], None]:
        """(x - shift) / scale, of one frame in place."""
        shift, factor = self.shift if self.shift.any() else None, 1 / scale

        def scale_frame(frame: Values) -> None:
            along = (-1, *(1,) * (frame.ndim - 1))
            if shift is not None:
                np.subtract(frame, shift.reshape(along), out=frame)
            np.multiply(frame, factor.reshape(along), out=frame)

        return scale_frame

    def _own_rms(self, frame: Values, valid: Mask | None) -> Values:
        rms = _rms(frame, valid)
        for first, end in self.shared:
            rms[first:end] = math.sqrt(np.mean(np.square(rms[first:end], dtype=np.float64)))
        return rms


def normaliser_of(data: DataConfig, dataset: Dataset) -> Normaliser:
    """What the config makes of a dataset. Raises RefusedError for a transform that cannot be."""
    spec = dataset.manifest.dataset
    kinds: dict[str, TransformKind] = dict.fromkeys(data.transforms.log, "log")
    kinds |= dict.fromkeys(data.transforms.asinh, "asinh")
    components, first = [], 0
    for field in spec.fields + spec.constant_fields:
        end = first + len(spec.spatial_dims) ** field.rank
        if field.rank and field.name in kinds:
            raise RefusedError(
                f"data.transforms names {field.name}, which is a {('vector', 'tensor')[field.rank - 1]} in dataset "
                f"{spec.name}: its direction would change; only scalars are transformed"
            )
        if field.rank and data.isotropic:
            components.append(Components(first, end, field.rank))
        first = end
    try:
        return normaliser(
            data.normalisation,
            channels=dataset.channels,
            statistics=dataset.manifest.statistics,
            transforms=kinds,
            isotropic=components,
        )
    except RefusedError as error:
        raise RefusedError(f"{dataset.storage.url}: dataset {spec.name}: {error}") from error


def refuse_unknown_transforms(data: DataConfig, datasets: Sequence[Dataset]) -> None:
    """Raises RefusedError for a field that no dataset has."""
    specs = [dataset.manifest.dataset for dataset in datasets]
    known = {field.name for spec in specs for field in spec.fields + spec.constant_fields}
    if unknown := sorted({*data.transforms.log, *data.transforms.asinh} - known):
        raise RefusedError(
            f"data.transforms: no dataset has a field {', '.join(unknown)}; they have {', '.join(sorted(known))}"
        )


class _Spread(NamedTuple):
    """Of one channel, after its transform."""

    mean: float
    std: float
    rms: float
    floor: float
    """Smallest scale of sense; 0 for a channel that is zero everywhere."""


def normaliser(
    kind: Kind,
    *,
    channels: Sequence[str],
    statistics: Mapping[str, Moments],
    transforms: Mapping[str, TransformKind] | None = None,
    isotropic: Sequence[Components] = (),
) -> Normaliser:
    """The map that `DataConfig.normalisation` names, for these channels. `transforms`: by name of a channel.

    Raises RefusedError for a logarithm where the mean is not positive.
    """
    chosen = tuple(_transforms(channels, statistics, transforms or {}))
    spreads = [_spread(statistics[channel]) for channel in channels]
    for transform in chosen:
        spreads[transform.channel] = _transformed(transform, statistics[channels[transform.channel]])
    for components in isotropic:
        spreads[components.first : components.end] = _shared(spreads[components.first : components.end], components)
    rms = np.array([_scale(spread.rms, spread) for spread in spreads], np.float32)
    shared = tuple((one.first, one.end) for one in isotropic)
    if kind == "standard":
        scale = np.array([_scale(spread.std, spread) for spread in spreads], np.float32)
        shift = np.array([spread.mean for spread in spreads], np.float32)
        return Normaliser(scale, shift, transforms=chosen, shared=shared)
    quiet_scale = (QUIET_FLOOR * rms).astype(np.float32) if kind == "window_rms" else None
    return Normaliser(rms, np.zeros(len(spreads), np.float32), quiet_scale, transforms=chosen, shared=shared)


def _transforms(
    channels: Sequence[str], statistics: Mapping[str, Moments], kinds: Mapping[str, TransformKind]
) -> Iterator[Transform]:
    """In units that make the field's own values near one."""
    for number, channel in enumerate(channels):
        kind = kinds.get(channel)
        if kind is None or statistics[channel].rms == 0:
            continue
        unit = statistics[channel].mean if kind == "log" else statistics[channel].rms
        if unit <= 0:
            raise RefusedError(
                f"the mean of {channel} is {unit:g}, and only positive values have a logarithm; name it in "
                "data.transforms.asinh instead of log"
            )
        yield Transform(number, channel, kind, unit)


def _spread(moment: Moments) -> _Spread:
    floor = max(NOISE_FLOOR * moment.rms, float(np.finfo(np.float32).tiny)) if moment.rms > 0 else 0.0
    return _Spread(moment.mean, moment.std, moment.rms, floor)


def _transformed(transform: Transform, moment: Moments) -> _Spread:
    """See the module's docstring."""
    mean, std = moment.mean / transform.unit, moment.std / transform.unit
    if transform.kind == "log":
        variance = math.log1p(std**2)
        mean, std = -variance / 2, math.sqrt(variance)
    else:
        mean, std = math.asinh(mean), std / math.hypot(1, mean)
    return _Spread(mean, std, math.hypot(mean, std), NOISE_FLOOR)


def _shared(spreads: Sequence[_Spread], components: Components) -> list[_Spread]:
    """One spread for all components, about what no rotation changes: zero; of a tensor, a multiple of the identity."""
    size = math.isqrt(len(spreads)) if components.rank == 2 else len(spreads)
    diagonal = range(0, len(spreads), size + 1) if components.rank == 2 else range(0)
    centre = sum(spreads[place].mean for place in diagonal) / size
    means = [centre if place in diagonal else 0.0 for place in range(len(spreads))]
    squares = [one.std**2 + (one.mean - mean) ** 2 for one, mean in zip(spreads, means, strict=True)]
    std, rms = math.sqrt(sum(squares) / len(squares)), math.sqrt(sum(one.rms**2 for one in spreads) / len(spreads))
    return [_Spread(mean, std, rms, max(one.floor for one in spreads)) for mean in means]


def _scale(value: float, spread: _Spread) -> float:
    """`value`, at least what float32 can tell from noise; 1 for a channel that is zero everywhere."""
    return max(value, spread.floor) if spread.floor > 0 else 1.0


def _transform(fields: Values, transform: Transform, valid: Mask | None) -> None:
    channel = fields[:, transform.channel]
    gaps = None if valid is None else ~valid[:, transform.channel]
    if gaps is not None:
        channel[gaps] = transform.unit  # which has a logarithm
    if transform.kind == "log" and not (smallest := float(channel.min())) > 0:
        raise RefusedError(
            f"{transform.name} is {smallest:g} somewhere, and only positive values have a logarithm; name it in "
            "data.transforms.asinh instead of log"
        )
    transform.apply(torch.from_numpy(channel))
    if gaps is not None:
        channel[gaps] = 0


def _rms(frame: Values, valid: Mask | None) -> Values:
    """(channel,) of one frame (channel, *space), in float64 on the way; values that are not valid are zeros."""
    flat = frame.reshape(len(frame), -1)
    mean = np.mean(np.square(flat, dtype=np.float64), axis=1)
    if valid is not None:
        mean *= flat.shape[1] / np.maximum(1, valid.reshape(len(frame), -1).sum(axis=1))
    rms: Values = np.sqrt(mean).astype(np.float32)
    return rms
