"""Which parameters are trained, and which of them decay."""

from collections.abc import Callable
from typing import Any

from torch import nn

from trainer.errors import RefusedError


def freeze(module: nn.Module, trainable: Callable[[str], bool]) -> None:
    """Marks the parameters that `trainable` does not name as frozen, the others as trained.

    Raises RefusedError when nothing is left to train.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trainable(name))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise RefusedError(
            "stage.trainable: no parameter of the model is trained by this choice; `python -m trainer check CONFIG` "
            "builds the model, and its parameter names are those of a snapshot"
        )


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in two groups: matrices and kernels decay; vectors (biases, norms, scales) do not.

    A group that would be empty is left out: DeepSpeed cannot flatten one.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
