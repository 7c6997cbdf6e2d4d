"""Tensors that the ranks hold together, made whole on all of them: many by one collective."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

GROUP_BYTES = 2**26
"""Of wholes that are made at once: enough that their number of collectives costs nothing, little beside a model."""

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """This rank's elements of one tensor; the other ranks hold the others."""

    shape: torch.Size
    """Of the whole."""
    start: int
    """Where the elements begin in the flattened whole."""
    elements: Tensor | None
    """Flat; None where this rank holds none."""


@torch.no_grad()
def assemble(pieces: Sequence[Piece], *, device: torch.device) -> list[Tensor]:
    """All ranks alike: the whole tensors as float32, views of one buffer.

    Sums bit patterns, of which all but one are zero: every bit arrives, that of a negative zero too.
    """
    sizes = [piece.shape.numel() for piece in pieces]
    buffer = torch.zeros(sum(sizes), dtype=torch.float32, device=device)
    wholes = torch.split(buffer, sizes)
    for whole, piece in zip(wholes, pieces, strict=True):
        if piece.elements is not None:
            whole.narrow(0, piece.start, piece.elements.numel()).copy_(piece.elements)
    dist.all_reduce(buffer.view(torch.int32))
    return [whole.view(piece.shape) for whole, piece in zip(wholes, pieces, strict=True)]


def in_groups(items: Iterable[T], *, size_of: Callable[[T], int], limit: int = GROUP_BYTES) -> Iterator[list[T]]:
    """Neighbours together while their sizes sum to `limit` at most; a larger one alone."""
    group: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    if group:
        yield group
