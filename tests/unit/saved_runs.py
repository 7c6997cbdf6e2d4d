"""A snapshot of one process, for tests of what reads, removes or damages it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.snapshot import About, Keep, RunState, Snapshots
from trainer.world import World

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"), backend="gloo")
ABOUT = About(config="name: test\nseed: 3\n", field_names=("density", "pressure"), space_rank=2)


class Entries:
    """interfaces.Engine as far as snapshots go: entries by name, whatever made them."""

    learning_rate = 0.0
    module = nn.Identity()

    def __init__(self, entries: dict[str, dict[str, Tensor]]) -> None:
        self.held, self.step_reached = entries, 0

    def step(self, batches: object) -> None:
        raise AssertionError("snapshots do not train")

    def entries(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield from self.held.items()

    def load_entries(self, read: Callable[[str], Mapping[str, Tensor]], *, step: int) -> None:
        self.held = {name: dict(read(name)) for name in self.held}
        self.step_reached = step

    def close(self) -> None:
        """Nothing is held."""


def make_entries(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "encoder.weight": {"weight": values(3, 4), "exp_avg": values(3, 4), "step": torch.tensor(5.0)},
        "encoder.bias": {"weight": values(3), "exp_avg": values(3), "step": torch.tensor(5.0)},
        "frozen": {"weight": values(2, 2, 2)},
        "empty": {"weight": values(0, 3)},
        "count": {"weight": torch.tensor([3], dtype=torch.int64)},
    }


def save_run(folder: Path, *steps: int, keep: Keep | None = None) -> Snapshots:
    """Snapshots of these steps in the run folder; entries of step n are `make_entries(n)`."""
    snapshots = Snapshots(str(folder / "snapshots"), keep=keep or Keep(last=10), world=ALONE)
    for step in steps:
        save_step(snapshots, step)
    return snapshots


def save_step(snapshots: Snapshots, step: int, **scores: float) -> None:
    """To its end."""
    state = RunState(step=step, samples_seen=8 * step)
    snapshots.begin(Entries(make_entries(step)), state, about=ABOUT, scores=scores)
    snapshots.settle()
