"""Sums what steps give, on the device, and on a logging step reduces it over the ranks with one all-reduce."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.interfaces import Report, StepResult

SumOverRanks = Callable[[Tensor], Tensor]


class Record:
    """The history of one process's steps since the last report."""

    def __init__(
        self,
        *,
        sum_over_ranks: SumOverRanks,
        tokens_of: Callable[[Batch], int],
        device: torch.device,
        stream_totals: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """`stream_totals`: what else this rank has counted since its process began, by the same names on all ranks."""
        self._sum_over_ranks, self._tokens_of, self._device = sum_over_ranks, tokens_of, device
        self._stream_totals = stream_totals
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._gradient_norm: Tensor | None = None
        self._step_seconds: list[float] = []
        self._local = {"windows": 0, "tokens": 0, "bytes": 0}
        self._totals = dict.fromkeys(("steps", "skipped_steps", "windows", "tokens", "bytes"), 0.0)

    def add(self, result: StepResult, batches: Sequence[Batch], *, seconds: float) -> None:
        """One step: nothing here waits for the device. The loss of a step that was left out is not counted."""
        if result.was_applied:
            _add(self._sums, result.sums)
            _add(self._counts, result.counts)
            self._gradient_norm = result.gradient_norm
        self._totals["skipped_steps"] += not result.was_applied
        self._step_seconds.append(seconds)
        self._local["windows"] += sum(batch.num_windows for batch in batches)
        self._local["tokens"] += sum(self._tokens_of(batch) for batch in batches)
        self._local["bytes"] += sum(batch.num_bytes for batch in batches)

    def report(self, *, step: int, samples: int, learning_rate: float, phases: Mapping[str, float]) -> Report:
        """All ranks alike: reduces and empties the sums. `phases` are this rank's seconds for each phase.

        Where every step was left out there is no loss to report.
        """
        names, streamed = sorted(self._sums), self._stream_totals()
        counted = [*self._local.values(), *streamed.values()]
        stacked = torch.stack(
            [self._sums[name].double() for name in names]
            + [self._counts[name].double() for name in names]
            + [torch.tensor(float(value), dtype=torch.float64, device=self._device) for value in counted]
        )
        reduced = self._sum_over_ranks(stacked).tolist()
        sums, counts = reduced[: len(names)], reduced[len(names) : 2 * len(names)]
        self._totals["steps"] += len(self._step_seconds)
        reduced = reduced[2 * len(names) :]
        for name, value in zip(self._local, reduced, strict=False):
            self._totals[name] += value
        self._totals |= dict(zip(streamed, reduced[len(self._local) :], strict=True))
        report = Report(
            step=step,
            samples=samples,
            time=time.time(),
            scalars={name: total / count for name, total, count in zip(names, sums, counts, strict=True)}
            | ({} if self._gradient_norm is None else {"gradient_norm": float(self._gradient_norm)})
            | {"learning_rate": learning_rate, "memory_bytes": peak_bytes()},
            totals=self._totals | {f"seconds/{phase}": value for phase, value in phases.items()},
            step_seconds=tuple(self._step_seconds),
        )
        self._sums, self._counts, self._step_seconds, self._gradient_norm = {}, {}, [], None
        self._local = dict.fromkeys(self._local, 0)
        return report


def _add(total: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        total[name] = total[name] + value if name in total else value


def peak_bytes() -> float:
    """Largest memory of this process so far: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
