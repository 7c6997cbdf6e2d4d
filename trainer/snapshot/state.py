"""Where a run stands. With the seed this says all about the data order and the learning rate."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RunState:
    """Free of world size and accumulation."""

    step: int = 0
    """Optimiser steps taken."""
    samples_seen: int = 0
    """Windows seen by all ranks together."""

    def advance(self, *, samples: int) -> "RunState":
        """After one more step over `samples` windows."""
        return replace(self, step=self.step + 1, samples_seen=self.samples_seen + samples)
