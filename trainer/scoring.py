"""Held-out data through a trained module: the scores that training and `evaluate` publish, the forecasts they draw.

Brings the loader's evaluation windows and the score functions together; on the floor of `run`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config.schema import DataConfig, EvaluationConfig
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.stream import evaluation_loader
from trainer.data.troubles import Ranks
from trainer.evaluate import Rollout, ScoredBatch, evaluate_frames, evaluate_rollouts, evaluating
from trainer.world import World


@dataclass(frozen=True)
class HeldOut:
    """The windows that are scored: which data, how cut, which share of this rank."""

    data: DataConfig
    evaluation: EvaluationConfig
    datasets: Sequence[Dataset]
    """Opened for `evaluation.split`."""
    field_ids: Mapping[str, int]
    micro_batch_size: int
    world: World
    ranks: Ranks | None = None
    """Where several score alike: then none goes on when one cannot."""

    def windows(self, *, frames: int | None = None) -> Loader:
        """At most `evaluation.max_windows` windows of each dataset, spread evenly: of `frames` frames, or of as many
        as in training."""
        return evaluation_loader(
            self.data,
            self.datasets,
            frames=frames,
            max_windows=self.evaluation.max_windows,
            share=self.world,
            micro_batch_size=self.micro_batch_size,
            field_ids=self.field_ids,
            pin=self.world.device.type == "cuda",
            ranks=self.ranks,
        )

    def check(self, *, stage: str) -> None:
        """Raises RefusedError where there is nothing to score, before a run has cost anything."""
        self.windows()
        if stage == "dynamics" and self.rollout:
            self.windows(frames=self.rollout.context + self.rollout.horizon)

    @property
    def rollout(self) -> Rollout | None:
        """How far forecasts are scored; None where none is asked for."""
        if not self.evaluation.rollout_frames:
            return None
        return Rollout(context=self.evaluation.context_frames, horizon=self.evaluation.rollout_frames)


def score(
    module: nn.Module, held_out: HeldOut, *, kind: str, sum_over_ranks: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Scores by `SPLIT/NAME`; the names are those of `evaluate`. All ranks alike."""
    device = held_out.world.device
    with held_out.windows() as loader:
        first_frame = 0 if kind == "tokeniser" else 1
        scores = evaluate_frames(module, _moved(loader, device), first_frame=first_frame, sum_over_ranks=sum_over_ranks)
    rollout = held_out.rollout
    if kind == "dynamics" and rollout:
        with held_out.windows(frames=rollout.context + rollout.horizon) as loader:
            scores |= evaluate_rollouts(module, _moved(loader, device), rollout=rollout, sum_over_ranks=sum_over_ranks)
    return {f"{held_out.evaluation.split}/{name}": value for name, value in scores.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """One window in the units of the source: what is true, and what the model makes of it."""

    channels: tuple[str, ...]
    truth: Tensor
    """(time, channel, *space)."""
    prediction: Tensor
    """As `truth`: the forecast of a dynamics model, the reconstruction of a tokeniser."""


@torch.no_grad()
def sample(module: nn.Module, held_out: HeldOut, *, kind: str) -> Sample:
    """The first of the held-out windows. One process alone."""
    rollout = held_out.rollout if kind == "dynamics" else None
    frames = rollout.context + rollout.horizon if rollout else None
    with held_out.windows(frames=frames) as loader, evaluating(module):
        batch, _ = next(_moved(loader, held_out.world.device))
        if rollout:
            prediction = module(batch, rollout=(rollout.context, rollout.horizon))
            truth = batch.fields[:, rollout.context :]
        else:
            prediction, truth = module(batch, predict=True), batch.fields
        pair = (batch.physical(fields.float())[0].cpu() for fields in (truth, prediction))
        return Sample(batch.channels, *pair)


def _moved(loader: Loader, device: torch.device) -> Iterator[ScoredBatch]:
    return ((batch.to(device), num_scored) for batch, num_scored in loader.scored())
