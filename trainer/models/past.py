"""What causal layers remember of a trajectory that comes in chunks, so that chunk by chunk equals the whole.

One `Past` goes with one trajectory through the forwards of one model; each layer keeps its own `Memory` in it: a
convolution the frames that its next taps reach back to, a transposed one what earlier latents add to later frames,
attention its keys and values. Its size is bounded by the kernels and by the latents that attention has seen, not by
the length of the trajectory. For use without gradients: recomputed activations would remember twice.
"""

from torch import Tensor, nn


class Memory:
    """What one layer remembers; nothing before the first chunk."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: Tensor | None = None


class Past:
    """The memories of all layers that have seen a chunk."""

    def __init__(self) -> None:
        self._memories: dict[nn.Module, Memory] = {}

    @property
    def is_new(self) -> bool:
        """Whether no chunk has come yet."""
        return not self._memories

    def of(self, layer: nn.Module) -> Memory:
        """The memory of this layer."""
        return self._memories.setdefault(layer, Memory())


def memory_of(past: Past | None, layer: nn.Module) -> Memory | None:
    """The layer's memory, or None where the trajectory comes whole."""
    return None if past is None else past.of(layer)
