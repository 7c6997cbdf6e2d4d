"""Which snapshots stay: the last ones, every so often one for ever, and the best by a score."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """The union of what each rule keeps."""

    last: int
    every_steps: int = 0
    """Those at whole multiples stay for ever; 0 keeps none for its age."""
    best: int = 0
    """This many with the lowest `score`."""
    score: str = ""

    def kept(self, scores: Mapping[int, float | None]) -> set[int]:
        """Steps to keep, of the snapshots of these steps with their scores (None: not scored)."""
        steps = sorted(scores)
        scored = sorted((value, step) for step, value in scores.items() if value is not None)
        regular = (step for step in steps if self.every_steps and step % self.every_steps == 0)
        return {*steps[-self.last :], *regular, *(step for _, step in scored[: self.best])}
