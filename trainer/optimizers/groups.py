"""Which parameters are trained, which of them decay, and which follow rules of their own."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from trainer.config.schema import ParameterRule
from trainer.errors import RefusedError
from trainer.interfaces import RATE_FACTOR, is_named

TABLES = ("embedding", "readout", "stride_gains")
"""Parts of names of matrices that are lists of vectors: Muon leaves those to AdamW, as its authors do."""


def freeze(module: nn.Module, trainable: Callable[[str], bool]) -> None:
    """Marks the parameters that `trainable` does not name as frozen, the others as trained.

    Raises RefusedError when nothing is left to train.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trainable(name))
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise RefusedError(
            "stage.trainable: no parameter of the model is trained by this choice; name some, as in processor.*"
        )


def parameter_groups(
    module: nn.Module, *, weight_decay: float, rules: Sequence[ParameterRule] = ()
) -> list[dict[str, Any]]:
    """The trained parameters in groups: matrices and kernels decay, vectors (biases, norms, scales) do not, unless the
    first rule that matches a name says otherwise.

    No group is empty: DeepSpeed cannot flatten one. Raises RefusedError for a rule that rules nothing.
    """
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    unused = set(rules)
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rule = next((rule for rule in rules if any(is_named(name, pattern) for pattern in rule.parameters)), None)
        unused.discard(rule) if rule is not None else None
        decay = weight_decay if parameter.ndim > 1 else 0.0
        decay = decay if rule is None or rule.weight_decay is None else rule.weight_decay
        factor = 1.0 if rule is None else rule.learning_rate_factor
        is_matrix = parameter.ndim > 1 and not any(table in name for table in TABLES)
        group = {"params": [], "weight_decay": decay, RATE_FACTOR: factor, "use_muon": is_matrix}
        groups.setdefault((factor, decay, is_matrix), group)["params"].append(parameter)
    if unused:
        patterns = ", ".join(min(rule.parameters for rule in unused))
        raise RefusedError(
            f"optimizer.rules: {patterns} matches no trained parameter, or others match first; names begin as "
            "`python -m trainer check CONFIG` prints them"
        )
    return list(groups.values())
