"""Memory that is used again and again: fresh memory costs a page fault for every 4 KiB, more than copying does."""

import numpy as np
from numpy.typing import NDArray


class Room:
    """A block of bytes that grows to the largest that was asked for. What was taken before is overwritten."""

    def __init__(self) -> None:
        self._block: NDArray[np.uint8] = np.empty(0, np.uint8)

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """So many bytes, of any content."""
        if len(self._block) < num_bytes:
            self._block = np.empty(num_bytes, np.uint8)
        return self._block[:num_bytes]
