"""Sums and counts of a step's micro-batches, kept on the device."""

from torch import Tensor

from trainer.interfaces import StepOutput, StepResult


class Totals:
    """What the forwards of one step add up to."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, output: StepOutput) -> None:
        loss = output.loss.detach().float()
        _add(self._sums, {**output.sums, "loss": loss})
        _add(self._counts, {**output.counts, "loss": loss.new_ones(())})

    def result(self, gradient_norm: Tensor, *, was_applied: bool) -> StepResult:
        return StepResult(self._sums, self._counts, gradient_norm, was_applied)


def _add(total: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        total[name] = total[name] + value.detach() if name in total else value.detach()
