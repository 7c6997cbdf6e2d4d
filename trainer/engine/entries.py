"""What an entry of the portable state is: tensors of one parameter or buffer, whole, float32, on the CPU."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that no later step changes; floating ones as float32, integers as they are."""
    return {name: _copy(tensor) for name, tensor in tensors.items()}


def buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The persistent buffers. They must be the same on all ranks: none of ours is updated from local batches."""
    persistent = module.state_dict(keep_vars=True)
    return ((name, buffer) for name, buffer in module.named_buffers() if name in persistent)


def _copy(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
