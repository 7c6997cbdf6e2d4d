"""The protocols between loop, engines, stages and sinks. Nobody here knows an implementation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from torch import Tensor, nn

from trainer.batch import Batch

RATE_FACTOR = "learning_rate_factor"
"""Key of an optimiser's parameter group: what the schedule's learning rate is multiplied by."""
AVERAGE = "average"
"""Name of the optimiser state that is the moving average of a weight."""
PARAMETER_PREFIX = "model."
"""Of all names of parameters in the module of the dynamics stage; says nothing to a reader."""
PERSISTENT_ELEMENTS = 100_000
"""ZeRO-3 keeps weights of up to this many elements whole on every rank once gathered."""


def is_named(name: str, pattern: str) -> bool:
    """Whether a pattern (`fnmatch`) names this parameter, by its whole name or as `check` prints it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix(PARAMETER_PREFIX), pattern)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one forward gives. A metric is `sums[name] / counts[name]`, summed over micro-batches and ranks first."""

    loss: Tensor
    """Scalar mean over the micro-batch; carries the graph until the engine has used it."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimiser step gives, on the device, before any reduction between ranks."""

    sums: dict[str, Tensor]
    counts: dict[str, Tensor]
    """Every metric of the stage, and `loss`."""
    gradient_norm: Tensor
    """Scalar, over all ranks, before clipping."""
    was_applied: bool
    """False where loss or gradients were not finite on a rank: then nothing was changed. The same on all ranks."""


class Stage(Protocol):
    """One training objective: a model, its loss, and what evaluation asks of it."""

    @property
    def kind(self) -> str: ...

    @property
    def block_classes(self) -> Mapping[str, type[nn.Module]]:
        """The blocks that the model repeats, by what a config calls them: those that may be recomputed or compiled."""

    @property
    def module(self) -> nn.Module:
        """`module(batch)` gives a StepOutput (training); `module(batch, predict=True)` every frame's prediction
        (batch, time, channel, *space); `module(batch, rollout=(context, horizon))` the `horizon` frames after the
        first `context`. One forward for all, since ZeRO-3 gathers parameters in hooks of forward."""

    def trainable(self, name: str) -> bool:
        """Whether the parameter of this name (within `module`) is trained."""

    def at_compression(self, number: int) -> "Stage":
        """The same model with one compression of its declared set alone, by its number there."""

    def tokens(self, batch: Batch) -> int:
        """Latent positions that a training forward of this batch works on."""


class Engine(Protocol):
    """Forward, backward, clip, optimise: on one process or sharded over many."""

    @property
    def module(self) -> nn.Module:
        """The stage's module, to call for evaluation on all ranks alike."""

    @property
    def learning_rate(self) -> float: ...

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """One optimiser step over this rank's micro-batches."""

    def averages(self) -> AbstractContextManager[None]:
        """All ranks alike: within it the module has the moving averages of its weights, where the optimiser keeps any.
        An error inside is not undone: the run ends."""

    def entries(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """All ranks call this alike: (parameter or buffer name, {"weight": …, "exp_avg": …, "step": …}) one at a
        time and whole, float32; free of ZeRO stage and world size. Frozen ones and buffers have `weight` alone.
        They may be the engine's own tensors: copy what must outlive the next step."""

    def load_entries(self, read: Callable[[str], Mapping[str, Tensor]], *, step: int) -> None:
        """All ranks alike, before the first step: sets weights and optimiser states from `read(name)`, and the number
        of steps taken, from which the learning rate goes on. Raises SnapshotError for the state of another model."""

    def close(self) -> None: ...


SNAPSHOT_TIME, SNAPSHOT_STEP = "snapshot_time", "snapshot_step"
"""Scalars of a report: when the newest snapshot became whole, in seconds since the epoch; and its step."""


@dataclass(frozen=True, slots=True)
class Report:
    """One line of a run's history: what every sink shows."""

    step: int
    samples: int
    """Windows seen since the run began."""
    time: float
    """Seconds since the epoch."""
    scalars: Mapping[str, float]
    """loss, gradient_norm, learning_rate, validation/vrmse, …"""
    totals: Mapping[str, float]
    """Monotone since this process began: windows, tokens, bytes, seconds/data, seconds/step, steps."""
    step_seconds: Sequence[float] = ()
    """Duration of each step since the last report."""


class Sink(Protocol):
    """Somewhere reports go: terminal, JSONL file, Prometheus. Only rank 0 (Prometheus: one rank a node) has any."""

    def publish(self, report: Report) -> None: ...

    def close(self) -> None: ...
