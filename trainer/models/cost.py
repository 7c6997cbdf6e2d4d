"""What a model costs: parameters, and floating-point operations counted from the operators that really run.

Used by `check` (on the meta device, where nothing is computed) and for utilisation. Knows no hardware.
"""

from collections.abc import Callable

from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Numbers of parameters by child module, in order, each shared parameter once."""
    return {name: sum(value.numel() for value in child.parameters()) for name, child in module.named_children()}


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions that `run` starts.

    Run it on the meta device: there attention falls apart into products that are counted, while a fused kernel of
    the CPU is not. A multiplication and an addition count as two. The backward pass, where `run` holds one, counts too;
    without it training costs three times the forward pass.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
