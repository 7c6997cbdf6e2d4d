"""Small batches for tests of what consumes them."""

import torch

from trainer.batch import Batch

PERIODIC = ("periodic", "periodic")


def make_batch(
    *,
    num_windows: int = 2,
    frames: int = 3,
    channels: tuple[str, ...] = ("density", "momentum_x"),
    space: tuple[int, ...] = (8, 8),
    seed: int = 0,
    is_target: tuple[bool, ...] | None = None,
) -> Batch:
    """Random fields; the scale is 2 and the shift 1 in every channel."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_windows, frames, len(channels), *space)
    return Batch(
        dataset="test",
        channels=channels,
        fields=torch.randn(shape, generator=generator),
        scale=torch.full((num_windows, len(channels)), 2.0),
        shift=torch.full((num_windows, len(channels)), 1.0),
        field_ids=torch.arange(len(channels)),
        is_target=torch.tensor(is_target or (True,) * len(channels)),
        time_step=torch.ones(num_windows),
        boundary=(PERIODIC,) * len(space),
        windows=tuple(range(num_windows)),
        draw=seed,
    )
