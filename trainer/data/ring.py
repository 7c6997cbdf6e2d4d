"""The memory that batches live in: a few buffers, used again and again.

Fresh memory costs a page fault for every 4 KiB, which is ten times what filling it costs; so nothing is allocated
once a run is under way. A buffer that a GPU may still be copying from is not given out before the copy is done.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PAGE_BYTES = 4096


@dataclass(slots=True)
class Buffer:
    """Room for one micro-batch of any dataset."""

    memory: Tensor
    """(elements,) float32."""
    copied: torch.cuda.Event | None = None
    """Reached when the GPU has read what was in it before."""

    def view(self, shape: Sequence[int]) -> Tensor:
        """The buffer's beginning, in this shape."""
        return self.memory[: math.prod(shape)].view(*shape)

    def wait_until_free(self) -> None:
        """Called by the thread that is about to write; lets go of the interpreter lock while it waits."""
        if (copied := self.copied) is not None:  # several threads may wait for the same buffer
            copied.synchronize()


class Scratch:
    """A thread's room for bytes that are not stored as a batch has them; it grows to the largest need and stays.

    It begins at a page, so that a caller can lay bytes as they lie in their file: a kernel whose copies run a few bytes
    ahead of their source, modulo a page, takes four times as long (measured on AMD Zen 3).
    """

    def __init__(self) -> None:
        self._room = np.empty(0, np.uint8)

    def view(self, num_bytes: int) -> memoryview:
        if len(self._room) < num_bytes:
            memory = np.empty(num_bytes + PAGE_BYTES, np.uint8)
            self._room = memory[-memory.ctypes.data % PAGE_BYTES :]
        return self._room.data[:num_bytes]


class Ring:
    """Free buffers. Not safe by itself: its loader's lock guards it."""

    def __init__(self, num_buffers: int, *, shapes: Iterable[Sequence[int]], pin: bool) -> None:
        num_elements = max(math.prod(shape) for shape in shapes)
        self._pin = pin
        self._free = deque(
            Buffer(torch.empty(num_elements, dtype=torch.float32, pin_memory=pin)) for _ in range(num_buffers)
        )

    @property
    def has_free(self) -> bool:
        return bool(self._free)

    def acquire(self) -> Buffer:
        """A buffer to fill; there must be a free one."""
        return self._free.popleft()

    def release(self, buffers: Sequence[Buffer]) -> None:
        """Give buffers back. With pinned memory, copies that were queued on the current stream end first."""
        if self._pin and buffers:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            copied.record(torch.cuda.current_stream())
            for buffer in buffers:
                buffer.copied = copied
        self._free.extend(buffers)
