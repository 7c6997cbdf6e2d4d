"""What people call the windows of a step: the file that a trajectory was converted from, and the first frame."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data.dataset import Dataset
from trainer.data.order import RankOrder


@dataclass(frozen=True)
class WindowNames:
    """Those of one rank."""

    order: RankOrder
    datasets: Sequence[Dataset]

    def of_step(self, step: int) -> str:
        """What the rank reads for the step that follows `step` others, in the order of reading."""
        first, count = step * self.order.micro_batches, self.order.micro_batches
        named = []
        for micro_batch in map(self.order.micro_batch, range(first, first + count)):
            dataset = self.datasets[micro_batch.dataset]
            sources = [dataset.trajectories[window.trajectory].source for window in micro_batch.windows]
            frames = [window.start for window in micro_batch.windows]
            named += [f"{source} from frame {frame}" for source, frame in zip(sources, frames, strict=True)]
        return ", ".join(named)
