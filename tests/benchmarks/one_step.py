"""What the contestants of `test_baselines` share: their data, their clock and their score. Imports torch alone.

Windows are (window, time, channel, *space), normalised; the last frame is to be predicted from those before it.
"""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

WARMUP, FINAL = 0.05, 0.01
"""Share of the time in which the learning rate grows, and what is left of it in the end."""


def train(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], batches: Iterator[Tensor], *, seconds: float, rate: float
) -> int:
    """AdamW for so many seconds of this process's CPU time, as The Well trains its baselines; gives the steps taken.

    CPU time, because others may use the machine: the same work is done in it however busy the machine is. The
    learning rate follows a cosine over the time, so that everybody's training comes to its end.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    start, steps = time.process_time(), 0
    while (part := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(part / WARMUP, FINAL + (1 - FINAL) * (1 + math.cos(math.pi * part)) / 2, 1.0)
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return steps


def shuffled(windows: Tensor, *, size: int, seed: int) -> Iterator[Tensor]:
    """Batches without end, every window once in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(windows), generator=generator)
        yield from (windows[rows] for rows in order.split(size))


def vrmse_of(predict: Callable[[Tensor], Tensor], windows: Tensor, *, size: int = 16) -> float:
    """Mean VRMSE (The Well's) of the last frames, over windows and channels.

    predict: (window, time, channel, *space) to (window, channel, *space).
    """
    space = tuple(range(2, windows.ndim - 1))
    total = 0.0
    with torch.no_grad():
        for part in windows.split(size):
            error = (predict(part) - part[:, -1]).square().mean(space)
            total += float((error / (part[:, -1].var(space) + 1e-7)).sqrt().mean(1).sum())
    return total / len(windows)
