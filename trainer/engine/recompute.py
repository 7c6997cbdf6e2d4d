"""Activation recomputation, applied to a model from outside: memory for about a third more time.

PyTorch's non-reentrant checkpoint was exact under every ZeRO stage; DeepSpeed's partitioned and CPU-offloaded
activations gave wrong gradients without an error, so they are not offered.
"""

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.config.schema import EngineConfig
from trainer.interfaces import Stage
from trainer.models.outermost import outermost


def blocks_to_recompute(stage: Stage, engine: EngineConfig) -> list[nn.Module]:
    """Those of the stage's blocks that `engine.recompute` would take, by their classes and every so many of them."""
    classes = tuple(block for name, block in stage.block_classes.items() if name in engine.recompute_classes)
    return outermost(stage.module, classes)[:: engine.recompute_every]


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Makes each block drop its activations and compute them again in the backward pass.

    The block's forward is wrapped, not the block, so parameter names stay. To be called once, before an engine is
    built.
    """
    for block in blocks:
        # the instance's own forward hides the class's; nn.Module looks it up at each call, hooks stay outside
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
