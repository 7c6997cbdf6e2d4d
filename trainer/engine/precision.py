"""Mixed precision, applied to a model from outside."""

from typing import Any

import torch
from torch import Tensor, nn


def compute_in_bfloat16(module: nn.Module, device: torch.device) -> None:
    """Makes the forward multiply in bfloat16 and keep what needs more (losses, norms, sums) in float32, whatever the
    dtypes of inputs and weights. Predictions come out in float32. Parameter names stay; to be called once.
    """
    forward = module.forward

    def forward_in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            output = forward(*args, **kwargs)
        return output.float() if isinstance(output, Tensor) else output

    # the instance's own forward hides the class's, so that hooks of modules stay outside
    module.forward = forward_in_bfloat16
