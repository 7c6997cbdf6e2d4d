"""The dynamics model: the tokeniser's encoder, the processor, the tokeniser's decoder.

One teacher-forced pass supervises every latent position; a rollout feeds the processor its own latents. Used by
the dynamics stage and by evaluation. What is trainable is decided outside, by the names of the parts:
`tokeniser.encoder`, `tokeniser.decoder`, `tokeniser.field_embedding`, `tokeniser.field_readout`, `processor`.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.flexible_conv import Boundary, Stride, total_stride
from trainer.models.past import Past
from trainer.models.processor import Processor, ProcessorShape
from trainer.models.tokeniser import Tokeniser, TokeniserShape


class Prediction(NamedTuple):
    """What a teacher-forced pass gives: fields, and latents beside the encoder's own as their target."""

    fields: Tensor
    """(batch, 1 + s n, channel, *space): frame 0 reconstructed, the others predicted one latent step ahead."""
    latents: Tensor
    """(batch, n, latent_channel, *latent_space): predicted from the latents before each."""
    targets: Tensor
    """As `latents`: what the encoder makes of the true fields."""


class DynamicsModel(nn.Module):
    """Predicts how fields go on, by way of the tokeniser's latents."""

    def __init__(self, *, field_names: tuple[str, ...], tokeniser: TokeniserShape, processor: ProcessorShape) -> None:
        super().__init__()
        self.tokeniser = Tokeniser(field_names=field_names, shape=tokeniser)
        self.processor = Processor(latent_channels=tokeniser.latent_channels, shape=processor)

    def forward(
        self, fields: Tensor, *, field_ids: Tensor, boundary: Boundary, strides: tuple[Stride, ...]
    ) -> Prediction:
        """fields: (batch, 1 + s n, channel, *space), n >= 1."""
        latents = self.tokeniser.encode(fields, field_ids=field_ids, boundary=boundary, strides=strides)
        predicted = self.processor(latents[:, :-1], boundary)
        decoded = self.tokeniser.decode(
            torch.cat([latents[:, :1], predicted], dim=1),
            field_ids=field_ids,
            boundary=boundary,
            strides=strides,
            size=tuple(fields.shape[3:]),
        )
        return Prediction(decoded, predicted, latents[:, 1:])

    def rollout(
        self,
        context: Tensor,
        num_frames: int,
        *,
        field_ids: Tensor,
        boundary: Boundary,
        strides: tuple[Stride, ...],
        max_latents: int | None = None,
    ) -> Tensor:
        """The `num_frames` frames after `context`, each latent step predicted from those before it.

        context: (batch, 1 + s m, channel, *space). The processor looks back over at most `max_latents` latents
        where given: the window that it was trained on. Gives (batch, num_frames, channel, *space).
        """
        latents = self.tokeniser.encode(context, field_ids=field_ids, boundary=boundary, strides=strides)
        decode = partial(
            self.tokeniser.decode,
            field_ids=field_ids,
            boundary=boundary,
            strides=strides,
            size=tuple(context.shape[3:]),
            past=Past(),
        )
        decode(latents)
        num_steps = -(-num_frames // total_stride(strides, self.tokeniser.shape.space_rank)[0])
        following = islice(self.follow(latents, boundary, max_latents=max_latents), num_steps)
        return torch.cat([decode(latent) for latent in following], dim=1)[:, :num_frames]

    def follow(self, latents: Tensor, boundary: Boundary, *, max_latents: int | None = None) -> Iterator[Tensor]:
        """The latents after `latents` (batch, time, latent_channel, *latent_space), one step at a time, without end.

        Keys and values of what was seen are kept, so that a step costs one position. Once `max_latents` have been
        seen, the last of them are seen anew at each step: what a step looks back on is always what training showed.
        """
        unseen = latents if max_latents is None else latents[:, -max_latents:]
        past, seen, window = Past(), 0, unseen
        while True:
            if max_latents is not None and seen + unseen.shape[1] > max_latents:
                past, seen, unseen = Past(), 0, window
            following = self.processor(unseen, boundary, past)[:, -1:]
            yield following
            seen += unseen.shape[1]
            unseen, window = following, torch.cat([window, following], dim=1)
            if max_latents is not None:
                window = window[:, -max_latents:]
