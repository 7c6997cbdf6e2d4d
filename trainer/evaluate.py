"""Scores of held-out windows: reconstruction or next frame, rollouts, and what predicting no change would score.

Sums and counts over all ranks, divided once, so that the numbers do not depend on batch size or world size.
Everything is scored in the units of the source, with The Well's definitions (`scores`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.scores import BANDS, spectral_error, vrmse

SumOverRanks = Callable[[Tensor], Tensor]
ScoredBatch = tuple[Batch, int]
"""A batch and how many of its leading windows count; the rest repeat others so that all ranks do the same work."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a rollout goes: `horizon` frames after `context` true ones."""

    context: int
    horizon: int


class Tally:
    """Sums and counts by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._counts: dict[str, float] = defaultdict(float)

    def add(self, name: str, values: Tensor) -> None:
        """Every element of `values` counts once."""
        self._sums[name] = self._sums[name] + values.double().sum().cpu()
        self._counts[name] += values.numel()

    def means(self, sum_over_ranks: SumOverRanks, device: torch.device) -> dict[str, float]:
        """All ranks alike, with the same names: one all-reduce, then the division."""
        names = list(self._sums)
        stacked = torch.stack(
            [self._sums[name] for name in names]
            + [torch.tensor(self._counts[name], dtype=torch.float64) for name in names]
        )
        sums, counts = sum_over_ranks(stacked.to(device)).cpu().chunk(2)
        return {name: float(total / count) for name, total, count in zip(names, sums, counts, strict=True)}


@torch.no_grad()
def evaluate_frames(
    module: nn.Module, batches: Iterable[ScoredBatch], *, first_frame: int, sum_over_ranks: SumOverRanks
) -> dict[str, float]:
    """`vrmse`, `vrmse@CHANNEL`, `spectral_low|mid|high` and `vrmse_persistence` of the frames from `first_frame` on.

    `first_frame` is 0 for reconstructions and 1 for next-frame predictions. All ranks call this alike.
    """
    tally, device = Tally(), torch.device("cpu")
    with evaluating(module):
        for batch, num_scored in batches:
            device = batch.fields.device
            prediction, target = (
                batch.physical(fields.float())[:num_scored] for fields in (module(batch, predict=True), batch.fields)
            )
            _add_frames(tally, batch, prediction, target, first_frame=first_frame)
    return tally.means(sum_over_ranks, device)


@torch.no_grad()
def evaluate_rollouts(
    module: nn.Module, batches: Iterable[ScoredBatch], *, rollout: Rollout, sum_over_ranks: SumOverRanks
) -> dict[str, float]:
    """`rollout_vrmse`, `rollout_vrmse@FRAME` for each lead (from 1) and `rollout_vrmse_persistence`.

    Each batch has at least context + horizon frames. All ranks call this alike.
    """
    tally, device = Tally(), torch.device("cpu")
    with evaluating(module):
        for batch, num_scored in batches:
            device = batch.fields.device
            forecast = batch.physical(module(batch, rollout=(rollout.context, rollout.horizon)).float())[:num_scored]
            truth = batch.physical(batch.fields)[:num_scored, : rollout.context + rollout.horizon]
            still = truth[:, rollout.context - 1 : rollout.context]
            truth = truth[:, rollout.context :]
            scores = vrmse(forecast, truth)[..., batch.is_target]
            tally.add("rollout_vrmse", scores)
            tally.add("rollout_vrmse_persistence", vrmse(still.expand_as(truth), truth)[..., batch.is_target])
            for lead in range(rollout.horizon):
                tally.add(f"rollout_vrmse@{lead + 1}", scores[:, lead])
    return tally.means(sum_over_ranks, device)


class evaluating:  # noqa: N801 (reads as the statement it opens)
    """Puts the module into evaluation mode for a block and back."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._was_training = module, module.training

    def __enter__(self) -> None:
        self._module.eval()

    def __exit__(self, *_error: object) -> None:
        self._module.train(self._was_training)


def _add_frames(tally: Tally, batch: Batch, prediction: Tensor, target: Tensor, *, first_frame: int) -> None:
    targets = batch.is_target
    scores = vrmse(prediction[:, first_frame:], target[:, first_frame:])
    tally.add("vrmse", scores[..., targets])
    for number, channel in enumerate(batch.channels):
        if targets[number]:
            tally.add(f"vrmse@{channel}", scores[..., number])
    bands = spectral_error(prediction[:, first_frame:], target[:, first_frame:])[..., targets, :]
    for number, band in enumerate(BANDS):
        tally.add(f"spectral_{band}", bands[..., number])
    if first_frame:
        tally.add("vrmse_persistence", vrmse(target[:, :-1], target[:, 1:])[..., targets])
