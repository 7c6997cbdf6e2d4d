"""Trained models for other programs: one process, fields in the units of their source, no config to write.

    from trainer.pretrained import load_dynamics, load_tokeniser

    tokeniser = load_tokeniser("exports/tokeniser")           # an export, a snapshot or a run folder; any URL
    latents = tokeniser.encode(fields, dataset="shear_flow")
    fields_again = tokeniser.decode(latents)

    dynamics = load_dynamics("exports/dynamics")
    future = dynamics.forecast(fields, 10, dataset="shear_flow")

`fields` is (batch, time, channel, *space), a tensor or a NumPy array of real numbers; `dataset` one of those that the
model was trained on: it gives the channels, their order, their scaling and, unless `boundary` is given, what its sides
are. `load_dynamics(…, device="cuda")` computes on a GPU; results are float32 tensors where the model is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.data.normalise import Normaliser
from trainer.errors import RefusedError, SnapshotError
from trainer.models.dynamics import DynamicsModel
from trainer.models.flexible_conv import Boundary, Stride, total_stride
from trainer.models.tokeniser import Tokeniser
from trainer.scaling import Transform, physical
from trainer.snapshot import About, DatasetRecord, open_snapshot
from trainer.stages.dynamics import DynamicsStage
from trainer.stages.tokeniser import TokeniserStage
from trainer.trained import load_weights, saved_config, stage_of

Fields = Tensor | npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Latents:
    """Encoded windows, and what it takes to decode them."""

    values: Tensor
    """(batch, 1 + n, latent_channel, *latent_space)."""
    dataset: str
    boundary: Boundary
    strides: tuple[Stride, ...]
    size: tuple[int, ...]
    """Cells along each axis of space."""
    scale: Tensor
    """(batch, channel)."""
    shift: Tensor
    """(channel,)."""


class Scaling:
    """Physical fields to what the model sees, and back, for the datasets that it was trained on.

    Where two of them have one name, they are `NAME#0`, `NAME#1`, … in the order of the run's `data.datasets`.
    """

    def __init__(self, about: About) -> None:
        self._datasets = dict(zip(_own_names([record.name for record in about.datasets]), about.datasets, strict=True))
        self._rows = {name: row for row, name in enumerate(about.field_names)}

    def of(self, dataset: str) -> DatasetRecord:
        """Raises RefusedError for a dataset that the model has not seen."""
        if dataset not in self._datasets:
            known = ", ".join(sorted(self._datasets)) or "none"
            raise RefusedError(f"dataset {dataset!r} is none that the model was trained on; known: {known}")
        return self._datasets[dataset]

    def boundary(self, dataset: str, given: Boundary | None) -> Boundary:
        """What is given, else the dataset's own. Raises RefusedError for sides that the dataset could not have."""
        own = self.of(dataset).boundary
        if given is None:
            return own
        if len(given) != len(own):
            raise RefusedError(f"boundary has the sides of {len(given)} axes, but dataset {dataset!r} has {len(own)}")
        for low, high in given:
            if not {low, high} <= {"wall", "open", "periodic"} or (low != high and "periodic" in (low, high)):
                raise RefusedError(
                    f"boundary has the sides {low!r} and {high!r}; expected wall or open for each, or periodic for both"
                )
        return given

    def field_ids(self, dataset: str) -> Tensor:
        """(channel,) rows of the model's vocabulary."""
        return torch.tensor([self._rows[channel] for channel in self.of(dataset).channels])

    def normalise(self, fields: Fields, dataset: str) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised fields, scale (batch, channel), shift (channel,), on the CPU. Values that are not finite become 0,
        as in training. Raises RefusedError for another shape, numbers that are not real, or values without a logarithm
        where it was taken."""
        record = self.of(dataset)
        axes = len(record.boundary)
        fields = fields if isinstance(fields, Tensor) else torch.tensor(fields)  # an array may be read-only
        if fields.is_complex():
            raise RefusedError("fields are complex; a model knows real and imaginary part as channels of their own")
        if fields.ndim != 3 + axes or fields.shape[2] != len(record.channels) or not fields.numel():
            raise RefusedError(
                f"fields have shape {tuple(fields.shape)}; expected (batch, time, channel, *space) with {axes} axes of "
                f"space, the channels {', '.join(record.channels)}, and no axis empty"
            )
        normaliser, normalised = _normaliser(record), fields.to("cpu", torch.float32, copy=True)
        scales = []
        for window in normalised.numpy():
            valid = np.isfinite(window)
            scales.append(torch.from_numpy(normaliser.apply(window, None if valid.all() else valid)[0]))
        return normalised, torch.stack(scales), torch.from_numpy(normaliser.shift)

    def physical(self, fields: Tensor, dataset: str, scale: Tensor, shift: Tensor) -> Tensor:
        """Normalised `fields` (batch, time, channel, *space) in the units of their source."""
        return physical(fields, scale, shift, transforms=_normaliser(self.of(dataset)).transforms)


def _own_names(names: Sequence[str]) -> list[str]:
    """Each name, numbered where it is not the only one."""
    return [
        f"{name}#{names[:place].count(name)}" if names.count(name) > 1 else name for place, name in enumerate(names)
    ]


def _refuse_part_of_a_step(num_frames: int, strides: tuple[Stride, ...], space_rank: int) -> None:
    step = total_stride(strides, space_rank)[0]
    if (num_frames - 1) % step:
        below = 1 + (num_frames - 1) // step * step
        raise RefusedError(
            f"fields have {num_frames} frames, but the time stride is {step}: give 1 + a multiple of it, {below} or "
            f"{below + step}"
        )


def _normaliser(record: DatasetRecord) -> Normaliser:
    """As the windows of the training met it."""
    return Normaliser(
        scale=np.array(record.scale, np.float32),
        shift=np.array(record.shift, np.float32),
        quiet_scale=None if record.quiet_scale is None else np.array(record.quiet_scale, np.float32),
        transforms=tuple(Transform(**dict(transform)) for transform in record.transforms),
        shared=record.shared_scales,
    )


def _beside(module: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
    """On the device of the module's weights."""
    device = next(module.parameters()).device
    return tuple(tensor.to(device) for tensor in tensors)


class PretrainedTokeniser:
    """A tokeniser in evaluation mode, on one device. `module` is the model itself, for whoever wants more than this."""

    def __init__(self, module: Tokeniser, scaling: Scaling, compressions: tuple[tuple[Stride, ...], ...]) -> None:
        self.module, self.scaling, self.compressions = module, scaling, compressions

    @torch.no_grad()
    def encode(
        self, fields: Fields, *, dataset: str, boundary: Boundary | None = None, compression: int = 0
    ) -> Latents:
        """`boundary`: (low, high) side of each axis of space: wall, open or periodic. `compression`: its number in the
        set that the tokeniser was trained with. Raises RefusedError where one of them does not fit."""
        if not 0 <= compression < len(self.compressions):
            raise RefusedError(f"compression {compression} is none of the {len(self.compressions)}, counted from 0")
        boundary = self.scaling.boundary(dataset, boundary)
        normalised, scale, shift, ids = _beside(
            self.module, *self.scaling.normalise(fields, dataset), self.scaling.field_ids(dataset)
        )
        strides = self.compressions[compression]
        _refuse_part_of_a_step(fields.shape[1], strides, fields.ndim - 3)
        values = self.module.encode(normalised, field_ids=ids, boundary=boundary, strides=strides)
        return Latents(values, dataset, boundary, strides, tuple(fields.shape[3:]), scale, shift)

    @torch.no_grad()
    def decode(self, latents: Latents) -> Tensor:
        """(batch, time, channel, *space) in the units of the source."""
        (ids,) = _beside(self.module, self.scaling.field_ids(latents.dataset))
        fields = self.module.decode(
            latents.values, field_ids=ids, boundary=latents.boundary, strides=latents.strides, size=latents.size
        )
        return self.scaling.physical(fields, latents.dataset, latents.scale, latents.shift)


class PretrainedDynamics:
    """A dynamics model in evaluation mode; `tokeniser` is its own."""

    def __init__(self, stage: DynamicsStage, scaling: Scaling) -> None:
        objective = stage.module
        self.module: DynamicsModel = objective.model
        self.scaling, self._strides, self._max_latents = scaling, objective.strides, objective.max_latents
        self.conditions = objective.conditions
        """Names of what it is told of a trajectory: `time_step`, the time between frames, or parameters."""
        self.tokeniser = PretrainedTokeniser(self.module.tokeniser, scaling, (objective.strides,))

    @torch.no_grad()
    def forecast(
        self,
        fields: Fields,
        num_frames: int,
        *,
        dataset: str,
        boundary: Boundary | None = None,
        conditions: Mapping[str, float | Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """The `num_frames` frames after `fields` (batch, 1 + s m, channel, *space), in the units of the source.

        `conditions`: for each of `self.conditions` a number, or one for each window (batch,), in the units of the
        source; not a number where it is not known. Raises RefusedError where something does not fit.
        """
        if num_frames < 1:
            raise RefusedError(f"num_frames is {num_frames}; expected 1 or more")
        normalised, scale, shift, ids = _beside(
            self.module, *self.scaling.normalise(fields, dataset), self.scaling.field_ids(dataset)
        )
        _refuse_part_of_a_step(fields.shape[1], self._strides, fields.ndim - 3)
        told = self._told(conditions, num_windows=len(fields))
        future = self.module.rollout(
            normalised,
            num_frames,
            field_ids=ids,
            boundary=self.scaling.boundary(dataset, boundary),
            strides=self._strides,
            conditions=None if told is None else told.to(ids.device),
            max_latents=self._max_latents,
        )
        return self.scaling.physical(future, dataset, scale, shift)

    def _told(self, conditions: Mapping[str, float | Tensor], *, num_windows: int) -> Tensor | None:
        """(batch, name) float32; None for a model that is told nothing."""
        if set(conditions) != set(self.conditions):
            raise RefusedError(
                f"conditions are {', '.join(conditions) or 'none'}, but this model is told "
                f"{', '.join(self.conditions) or 'none'}; give each a number, as in conditions={{'time_step': 0.5}}"
            )
        columns = [torch.as_tensor(conditions[name], dtype=torch.float32, device="cpu") for name in self.conditions]
        if any(column.shape not in ((), (num_windows,)) for column in columns):
            raise RefusedError(f"a condition is a number, or {num_windows} of them: one for each window")
        return torch.stack([column.expand(num_windows) for column in columns], dim=1) if columns else None


def load_tokeniser(url: str, *, average: bool = False, device: str | torch.device = "cpu") -> PretrainedTokeniser:
    """The tokeniser of a tokeniser run: of an export, of a snapshot, or of a run folder's newest one.

    `average`: its moving average. Raises SnapshotError for what is none.
    """
    stage, scaling = _load(url, average=average, device=device)
    if not isinstance(stage, TokeniserStage):
        raise SnapshotError(f"{url} is of a dynamics run; load_dynamics(...).tokeniser is its tokeniser")
    return PretrainedTokeniser(stage.module.tokeniser, scaling, stage.module.compressions)


def load_dynamics(url: str, *, average: bool = False, device: str | torch.device = "cpu") -> PretrainedDynamics:
    """As `load_tokeniser`, for a dynamics run."""
    stage, scaling = _load(url, average=average, device=device)
    if not isinstance(stage, DynamicsStage):
        raise SnapshotError(f"{url} is of a tokeniser run; use load_tokeniser")
    return PretrainedDynamics(stage, scaling)


def _load(url: str, *, average: bool, device: str | torch.device) -> tuple[TokeniserStage | DynamicsStage, Scaling]:
    snapshot = open_snapshot(url)
    config, about = saved_config(snapshot), snapshot.about
    stage = stage_of(config, snapshot)
    module: nn.Module = stage.module
    load_weights(module, snapshot, average=average)
    module.requires_grad_(False).eval().to(device)
    return stage, Scaling(about)
