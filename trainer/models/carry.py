"""A trained tokeniser carried over to another vocabulary of fields.

Works on state dicts, by name, and says what it did. Used where a run starts from another run's tokeniser.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CarriedFields:
    """Which fields of a new vocabulary kept their trained rows and which started fresh."""

    kept: tuple[str, ...]
    started: tuple[str, ...]


def carry_fields(
    trained: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    *,
    trained_names: tuple[str, ...],
    names: tuple[str, ...],
) -> tuple[dict[str, Tensor], CarriedFields]:
    """The trained state of a tokeniser for another vocabulary: rows move by name, all else is kept.

    `trained` and `fresh` are state dicts of tokenisers built for `trained_names` and for `names`; keys may
    carry a common prefix. New names start as `field_mixture` says.
    """
    embedding = next(key for key in fresh if key.endswith("field_embedding.rows"))
    mixture = field_mixture(trained[embedding], fresh[embedding], trained_names=trained_names, names=names)
    state = dict(trained)
    for key, rows in fresh.items():
        module, _, parameter = key.rpartition(".")
        if module.endswith(("field_embedding", "field_readout")) and parameter != "sides":
            mixed = torch.einsum("nt,t...->n...", mixture, trained[key])
            is_mixed = mixture.any(dim=1).view(-1, *(1,) * (rows.ndim - 1))
            state[key] = torch.where(is_mixed, mixed, rows)
    kept = tuple(name for name in names if name in trained_names)
    return state, CarriedFields(kept, tuple(name for name in names if name not in trained_names))


def field_mixture(trained: Tensor, fresh: Tensor, *, trained_names: tuple[str, ...], names: tuple[str, ...]) -> Tensor:
    """(name, trained name): how much of each trained row goes into the row of each name, in embedding and read-out.

    A shared name keeps its row. A new one starts as a random mixture, of unit length and as orthogonal to the
    others as can be, of the trained rows that no name keeps: only in their directions has the shared convolution
    learnt anything, and with the same mixture at both ends a new field is reconstructed from the first step on.
    Where no trained row is left over the mixture is zero, and the new row has to start from `fresh`.
    `trained`, `fresh`: (trained name, width) and (name, width), the rows of the embedding.
    """
    mixture = trained.new_zeros(len(names), len(trained_names))
    for row, name in enumerate(names):
        if name in trained_names:
            mixture[row, trained_names.index(name)] = 1.0
    new = [row for row, name in enumerate(names) if name not in trained_names]
    free = [row for row, name in enumerate(trained_names) if name not in names]
    if new and free:
        drawn = fresh[new] @ torch.linalg.pinv(trained[free])
        left, _, right = torch.linalg.svd(drawn, full_matrices=False)
        frame = left @ right
        mixture[torch.tensor(new)[:, None], torch.tensor(free)] = frame / frame.norm(dim=1, keepdim=True)
    return mixture
