"""The processor: latents up to now to the latents that follow, one step ahead at every position.

Blocks in the manner of Walrus (McCabe et al. 2025): attention over time and space in turn, causal in time.
One set of weights serves two and three space axes and any grid. Used by `dynamics`; knows no fields.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from trainer.models.blocks import ProcessorBlock
from trainer.models.condition import Conditioning
from trainer.models.flexible_conv import Boundary
from trainer.models.past import Past


@dataclass(frozen=True)
class ProcessorShape:
    """The sizes of a processor."""

    width: int
    """Channels of a token; a multiple of `num_heads`."""
    depth: int
    """Blocks."""
    num_heads: int
    feed_forward: int
    """Hidden channels of the SwiGLU."""
    residual_scale: float = 0.1
    """Size of each residual branch at the start, against that of a layer which keeps the variance."""
    delta: bool = True
    """Predict the change of the latents, starting from no change, instead of the whole next latents."""
    num_conditions: int = 0
    """Values that a trajectory is told by; see `condition`."""


class Processor(nn.Module):
    """(batch, time, latent_channel, *latent_space) to the prediction of the same shape, one latent step later."""

    def __init__(self, *, latent_channels: int, shape: ProcessorShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Linear(latent_channels, shape.width)
        self.conditioning = Conditioning(shape.num_conditions, shape.width) if shape.num_conditions else None
        self.blocks = nn.ModuleList(
            ProcessorBlock(shape.width, shape.num_heads, hidden=shape.feed_forward, residual_scale=shape.residual_scale)
            for _ in range(shape.depth)
        )
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.predict = nn.Linear(shape.width, latent_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The embedding keeps the variance; the prediction starts near no change, or of unit size without delta."""
        nn.init.normal_(self.embed.weight, std=self.embed.in_features**-0.5)
        nn.init.zeros_(self.embed.bias)
        size = self.shape.residual_scale if self.shape.delta else 1.0
        nn.init.normal_(self.predict.weight, std=size * self.predict.in_features**-0.5)
        nn.init.zeros_(self.predict.bias)

    def forward(
        self, latents: Tensor, boundary: Boundary, *, conditions: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """conditions: (batch, number) where the shape has any. With a `past`, only the latents that it has not seen
        are given, and only their predictions come back."""
        x: Tensor = self.embed(latents.movedim(2, -1))
        if self.conditioning is not None:
            assert conditions is not None, "a conditioned processor is told its conditions"
            vector = self.conditioning(conditions)
            x = x + vector.view(len(vector), *(1,) * (x.ndim - 2), -1)
        for block in self.blocks:
            x = block(x, boundary, past)
        predicted: Tensor = self.predict(self.norm(x)).movedim(-1, 2)
        return latents + predicted if self.shape.delta else predicted
