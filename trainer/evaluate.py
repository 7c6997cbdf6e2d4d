"""Scores of held-out windows: reconstruction or next frame, rollouts, and what predicting no change would score.

Sums and counts over all ranks, divided once, so that the numbers do not depend on batch size or world size.
Everything is scored in the units of the source, with The Well's definitions (`scores`). Values that are not valid count
nowhere; a frame without a valid value has no score, and persistence is scored where both frames are valid.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.masked import has_values
from trainer.scores import spectral_error, vrmse
from trainer.spectrum import BANDS

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

    def add(self, name: str, values: Tensor, is_counted: Tensor | None = None) -> None:
        """Every element of `values` counts once; of those that `is_counted`, of the same shape, marks, if given."""
        counted = values if is_counted is None else values[is_counted]
        self._sums[name] = self._sums[name] + counted.double().sum().cpu()
        self._counts[name] += counted.numel()

    def means(self, sum_over_ranks: SumOverRanks, device: torch.device) -> dict[str, float]:
        """All ranks alike, with the same names: one all-reduce, then the division. What nothing counts for has none."""
        names = list(self._sums)
        stacked = torch.stack(
            [self._sums[name] for name in names]
            + [torch.tensor(self._counts[name], dtype=torch.float64) for name in names]
        )
        sums, counts = sum_over_ranks(stacked.to(device)).cpu().chunk(2)
        return {name: float(total / count) for name, total, count in zip(names, sums, counts, strict=True) if count}


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
            valid = None if batch.valid is None else batch.valid[:num_scored]
            _add_frames(tally, batch, prediction, target, valid, first_frame=first_frame)
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
            window = batch.physical(batch.fields)[:num_scored, : rollout.context + rollout.horizon]
            valid = None if batch.valid is None else batch.valid[:num_scored, : rollout.context + rollout.horizon]
            _add_rollouts(tally, batch, forecast, window, valid, context=rollout.context)
    return tally.means(sum_over_ranks, device)


class evaluating:  # noqa: N801 (reads as the statement it opens)
    """Puts the module into evaluation mode for a block and back."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._was_training = module, module.training

    def __enter__(self) -> None:
        self._module.eval()

    def __exit__(self, *_error: object) -> None:
        self._module.train(self._was_training)


def _add_frames(
    tally: Tally, batch: Batch, prediction: Tensor, target: Tensor, valid: Tensor | None, *, first_frame: int
) -> None:
    """`valid`: as `target`; None where every value counts."""
    targets = batch.is_target
    if first_frame:
        known = None if valid is None else valid[:, 1:] & valid[:, :-1]
        _add(tally, "vrmse_persistence", vrmse(target[:, :-1], target[:, 1:], known), known, targets)
    prediction, target = prediction[:, first_frame:], target[:, first_frame:]
    valid = None if valid is None else valid[:, first_frame:]
    scores = vrmse(prediction, target, valid)
    _add(tally, "vrmse", scores, valid, targets)
    for number, channel in enumerate(batch.channels):
        if targets[number]:
            _add(tally, f"vrmse@{channel}", scores, valid, number)
    bands = spectral_error(prediction, target, valid)
    for number, band in enumerate(BANDS):
        _add(tally, f"spectral_{band}", bands[..., number], valid, targets)


def _add_rollouts(
    tally: Tally, batch: Batch, forecast: Tensor, window: Tensor, valid: Tensor | None, *, context: int
) -> None:
    """`window` and `valid`: the context, then the frames that `forecast` is of."""
    still, truth = window[:, context - 1 : context], window[:, context:]
    known = None if valid is None else valid[:, context:] & valid[:, context - 1 : context]
    _add(tally, "rollout_vrmse_persistence", vrmse(still.expand_as(truth), truth, known), known, batch.is_target)
    valid = None if valid is None else valid[:, context:]
    scores = vrmse(forecast, truth, valid)
    _add(tally, "rollout_vrmse", scores, valid, batch.is_target)
    for lead in range(truth.shape[1]):
        frame = slice(lead, lead + 1)
        here = None if valid is None else valid[:, frame]
        _add(tally, f"rollout_vrmse@{lead + 1}", scores[:, frame], here, batch.is_target)


def _add(tally: Tally, name: str, scores: Tensor, valid: Tensor | None, channels: Tensor | int) -> None:
    """Scores (batch, time, channel) of some channels, of frames that have a valid value there."""
    counted = has_values(valid)
    tally.add(name, scores[..., channels], None if counted is None else counted[..., channels])
