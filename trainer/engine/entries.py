"""What an entry of the portable state is: whole tensors of one parameter or buffer, floating ones as float32."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn


def portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the graph; floating ones as float32, integers as they are. Nothing is copied that need not be."""
    return {name: _float32(tensor.detach()) for name, tensor in tensors.items()}


def buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The persistent buffers. They must be the same on all ranks: none of ours is updated from local batches."""
    persistent = module.state_dict(keep_vars=True)
    return ((name, buffer) for name, buffer in module.named_buffers() if name in persistent)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
