"""Activation recomputation, applied to a model from outside: memory for about a third more time.

PyTorch's non-reentrant checkpoint was exact under every ZeRO stage; DeepSpeed's partitioned and CPU-offloaded
activations gave wrong gradients without an error, so they are not offered.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> int:
    """Makes each outermost block of `classes` drop its activations and compute them again in the backward pass.

    The block's forward is wrapped, not the block, so parameter names stay. To be called once, before an engine is
    built. Returns the number of blocks.
    """
    if isinstance(module, classes):
        # the instance's own forward hides the class's; nn.Module looks it up at each call, hooks stay outside
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
        return 1
    return sum(recompute(child, classes) for child in module.children())
