"""A stage module of a few thousand weights with everything that sharding trips over, and batches for it.

It has a weight of its own beside its children, large matrices that stage 3 shards (see `engine_cases.SMALL`), vectors,
a buffer, a part to freeze, and blocks to recompute.
"""

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.interfaces import StepOutput

WIDTH = 330
"""Of the matrices."""
GLOBAL_BATCH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.expand = nn.Linear(16, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.contract = nn.Linear(WIDTH, 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.nn.functional.gelu(self.expand(self.norm(x)))
        mixed: Tensor = x + self.contract(torch.nn.functional.gelu(self.mix(hidden)))
        return mixed


class Toy(nn.Module):
    """Predicts a fixed function of its input. x: (batch, time, channel, *space) of 16 values a window."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 16))
        self.embed = nn.Linear(16, 16)
        self.first = Block()
        self.second = Block()
        self.register_buffer("offset", torch.linspace(-1, 1, 16))
        self.register_buffer("passing", torch.zeros(3), persistent=False)

    def forward(self, batch: Batch, predict: bool = False) -> StepOutput | Tensor:
        x = batch.fields.flatten(1)
        y = self.second(self.first(self.embed(x * self.scale))).float() + self.offset
        if predict:
            return y
        squares = (y - torch.sin(3 * batch.fields.flatten(1))).square()
        no_weights_part = 0 * batch.scale.sum()  # a scale that is infinite breaks the loss alone
        return StepOutput(
            squares.mean() + no_weights_part,
            sums={"mse": squares.sum()},
            counts={"mse": squares.new_tensor(squares.numel())},
        )


def make_toy(*, frozen: bool = False, seed: int = 7) -> Toy:
    """The same weights for the same seed; `frozen` leaves the first block as it is."""
    torch.manual_seed(seed)
    toy = Toy()
    with torch.no_grad():
        toy.offset.add_(torch.randn(16) / 10)
    if frozen:
        toy.first.requires_grad_(False)
        toy.embed.requires_grad_(False)
    return toy


def micro_batches(step: int, *, rank: int, world_size: int, accumulation: int) -> list[Batch]:
    """This rank's share of the global batch of `step`, which is the same for every world size."""
    fields = torch.randn(GLOBAL_BATCH, 1, 1, 16, generator=torch.Generator().manual_seed(step))
    mine = fields.chunk(world_size)[rank]
    return [_batch(part, step) for part in mine.chunk(accumulation)]


def _batch(fields: Tensor, step: int) -> Batch:
    num_windows = len(fields)
    return Batch(
        dataset="toy",
        channels=("density",),
        fields=fields,
        scale=torch.ones(num_windows, 1),
        shift=torch.zeros(num_windows, 1),
        field_ids=torch.zeros(1, dtype=torch.int64),
        is_target=torch.ones(1, dtype=torch.bool),
        time_step=torch.ones(num_windows),
        boundary=(("periodic", "periodic"),),
        windows=tuple(range(num_windows)),
        draw=step,
    )
