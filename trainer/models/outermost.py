"""The blocks of a model that are treated apart from outside: recomputed in the backward pass, compiled."""

from torch import nn


def outermost(module: nn.Module, classes: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """The modules of these classes that lie in no other of them, in the order in which they were made."""
    if isinstance(module, classes):
        return [module]
    return [block for child in module.children() for block in outermost(child, classes)]
