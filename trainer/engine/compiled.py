"""torch.compile for the blocks of a model and the convolutions between them, applied from outside: those of one class
share what is compiled for them.

Whole models are not compiled: the strides that are chosen at run time, and fields by name, would compile them anew for
each choice.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trainer.errors import RefusedError
from trainer.interfaces import Stage
from trainer.models.flexible_conv import CausalConv, CausalConvTranspose
from trainer.models.outermost import outermost

VARIANTS = 64
"""How often one class may be compiled before it runs as written: for each width, size and kind of sides. PyTorch allows
8 by default."""


def parts_to_compile(stage: Stage) -> list[nn.Module]:
    """The stage's blocks, and the convolutions between them."""
    return outermost(stage.module, (*stage.block_classes.values(), CausalConv, CausalConvTranspose))


def compile_parts(parts: Iterable[nn.Module]) -> None:
    """Makes each part's forward compile when training first calls it; parameter names stay.

    To be called once, before `recompute`. Raises RefusedError where there is no compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler  # 2 s, and only who asks for it pays
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RefusedError(
            "engine.compile is true, but no C++ compiler was found; install g++, or set it to false"
        ) from error
    torch._dynamo.config.recompile_limit = VARIANTS
    for part in parts:
        part.forward = _in_training(part.forward)


def _in_training(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled forward where gradients are wanted, `forward` elsewhere: a rollout has other sizes at every step.

    Sizes are compiled as they come, since those of a run are few, and operators for any size are slower.
    """
    compiled = torch.compile(forward, dynamic=False)

    def choose(*args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else forward)(*args, **kwargs)

    return choose
