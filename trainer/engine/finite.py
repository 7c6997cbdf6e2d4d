"""A loss that is not finite makes its gradients so too: then one question decides on a step. Used by every engine."""

import torch
from torch import Tensor


def spreading(loss: Tensor) -> Tensor:
    """The scalar `loss` to go backward from; where it is not finite, neither are the gradients.

    They may be else: the slope of a root is zero at infinity. Reduced between ranks as they are anyway, they then tell
    all ranks alike to leave the step out. Those of a finite loss stay as they are bit by bit, and nothing here waits
    for the device.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
