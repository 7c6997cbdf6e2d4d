"""What a whole trajectory is told by: the time between frames, the simulation's parameters. One vector for all tokens.

Used by the processor. Values come raw, in the units of the source: what counts is their order of magnitude and small
ratios between them, so the network reads waves of their logarithm.
"""

import torch
from torch import Tensor, nn

OCTAVES = 6
"""Waves over the logarithm, from one radian per e-fold upwards: the fastest tells 1.22 from 1.40 by four radians."""
NUM_FEATURES = 2 + 2 * OCTAVES


def magnitude_features(values: Tensor) -> Tensor:
    """(…, NUM_FEATURES) float32 of any finite values; all zero where a value is not finite: it is not known."""
    is_known = values.isfinite()
    known = torch.where(is_known, values, 1.0).float()
    octaves = 2.0 ** torch.arange(OCTAVES, device=values.device)
    waves = known.abs().clamp(min=1e-30).log()[..., None] * octaves
    features = torch.cat([torch.ones_like(known)[..., None], known.sign()[..., None], waves.sin(), waves.cos()], dim=-1)
    return features * is_known[..., None]


class Conditioning(nn.Module):
    """(batch, number) values to (batch, width), zero at the start of training."""

    def __init__(self, num_values: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(num_values, NUM_FEATURES, width))
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.rows, std=(self.rows.shape[0] * NUM_FEATURES / 2) ** -0.5)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, values: Tensor) -> Tensor:
        hidden = torch.einsum("bnf,nfw->bw", magnitude_features(values).to(self.rows.dtype), self.rows)
        vector: Tensor = self.out(nn.functional.silu(hidden))
        return vector
