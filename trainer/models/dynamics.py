"""The dynamics model: the tokeniser's encoder, the processor, the tokeniser's decoder.

One teacher-forced pass supervises every latent position; a rollout feeds the processor its own latents. Used by
the dynamics stage and by evaluation. What is trainable is decided outside, by the names of the parts:
`tokeniser.encoder`, `tokeniser.decoder`, `tokeniser.field_embedding`, `tokeniser.field_readout`, `processor`.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.flexible_conv import Boundary, Stride, total_stride
from trainer.models.past import Past
from trainer.models.processor import Processor, ProcessorShape
from trainer.models.tokeniser import Tokeniser, TokeniserShape


class Prediction(NamedTuple):
    """What a training pass gives: fields, and latents beside the encoder's own as their target."""

    fields: Tensor
    """(batch, 1 + s n, channel, *space): frame 0 reconstructed, the others predicted."""
    latents: Tensor
    """(batch, n, latent_channel, *latent_space): each predicted from those before it."""
    targets: Tensor
    """As `latents`: what the encoder makes of the true fields."""


class DynamicsModel(nn.Module):
    """Predicts how fields go on, by way of the tokeniser's latents.

    With `adds_change`, a frame is predicted as the last true frame plus the change between the decoded latents, so
    that what the tokeniser loses is lost in the change alone; without, as the decoded latents.
    """

    def __init__(
        self,
        *,
        field_names: tuple[str, ...],
        tokeniser: TokeniserShape,
        processor: ProcessorShape,
        adds_change: bool = False,
    ) -> None:
        super().__init__()
        self.tokeniser = Tokeniser(field_names=field_names, shape=tokeniser)
        self.processor = Processor(latent_channels=tokeniser.latent_channels, shape=processor)
        self.adds_change = adds_change

    def forward(
        self,
        fields: Tensor,
        *,
        field_ids: Tensor,
        boundary: Boundary,
        strides: tuple[Stride, ...],
        conditions: Tensor | None = None,
        free_steps: int = 1,
        push_forward: bool = False,
    ) -> Prediction:
        """fields: (batch, 1 + s n, channel, *space), 1 <= free_steps <= n.

        The last `free_steps` latents are predicted one from the other, the first of them and all before it from true
        ones. `push_forward` keeps gradients from flowing through predictions that are fed back.
        """
        latents = self.tokeniser.encode(fields, field_ids=field_ids, boundary=boundary, strides=strides)
        num_true = latents.shape[1] - free_steps
        predicted = self.processor(latents[:, :num_true], boundary, conditions=conditions)
        for _ in range(free_steps - 1):
            own = predicted[:, num_true - 1 :]
            seen = torch.cat([latents[:, :num_true], own.detach() if push_forward else own], dim=1)
            following = self.processor(seen, boundary, conditions=conditions)[:, -1:]
            predicted = torch.cat([predicted, following], dim=1)
        decode = partial(
            self.tokeniser.decode,
            field_ids=field_ids,
            boundary=boundary,
            strides=strides,
            size=tuple(fields.shape[3:]),
        )
        decoded = decode(torch.cat([latents[:, :1], predicted], dim=1))
        if self.adds_change:
            lost = fields - decode(latents)
            step = total_stride(strides, len(boundary))[0]
            decoded = decoded + lost_before(lost, step=step, num_true=num_true)
        return Prediction(decoded, predicted, latents[:, 1:])

    def rollout(
        self,
        context: Tensor,
        num_frames: int,
        *,
        field_ids: Tensor,
        boundary: Boundary,
        strides: tuple[Stride, ...],
        conditions: Tensor | None = None,
        max_latents: int | None = None,
    ) -> Tensor:
        """The `num_frames` frames after `context`, each latent step predicted from those before it.

        context: (batch, 1 + s m, channel, *space). The processor looks back over at most `max_latents` latents
        where given: the window that it was trained on. The decoder, which may look back too, sees what training
        showed it: predicted latents, of the context as well. Gives (batch, num_frames, channel, *space).
        """
        latents = self.tokeniser.encode(context, field_ids=field_ids, boundary=boundary, strides=strides)
        decode = partial(
            self.tokeniser.decode,
            field_ids=field_ids,
            boundary=boundary,
            strides=strides,
            size=tuple(context.shape[3:]),
        )
        steps = self.follow(latents, boundary, conditions=conditions, max_latents=max_latents)
        known, past = next(steps), Past()
        decode(torch.cat([latents[:, : latents.shape[1] + 1 - known.shape[1]], known[:, :-1]], dim=1), past=past)
        num_steps = -(-num_frames // total_stride(strides, len(boundary))[0])
        following = islice(chain([known[:, -1:]], steps), num_steps)
        decoded = torch.cat([decode(latent, past=past) for latent in following], dim=1)[:, :num_frames]
        return decoded + (context[:, -1:] - decode(latents)[:, -1:]) if self.adds_change else decoded

    def follow(
        self, latents: Tensor, boundary: Boundary, *, conditions: Tensor | None = None, max_latents: int | None = None
    ) -> Iterator[Tensor]:
        """What follows each of `latents` (batch, time, latent_channel, *latent_space), of the last `max_latents` of
        them at most; then the latents after that, one step at a time, without end.

        Keys and values of what was seen are kept, so that a step costs one position. Once `max_latents` have been
        seen, the newer half of them is seen anew: what a step looks back on is always what training showed.
        """
        unseen = latents if max_latents is None else latents[:, -max_latents:]
        past, seen, window = Past(), 0, unseen
        predicted = self.processor(unseen, boundary, conditions=conditions, past=past)
        yield predicted
        while True:
            seen += unseen.shape[1]
            unseen = predicted[:, -1:]
            window = torch.cat([window, unseen], dim=1)
            if max_latents is not None:
                window = window[:, -max_latents:]
                if seen + 1 > max_latents:
                    past, seen, unseen = Past(), 0, window[:, -((max_latents + 1) // 2) :]
            predicted = self.processor(unseen, boundary, conditions=conditions, past=past)[:, -1:]
            yield predicted


def lost_before(lost: Tensor, *, step: int, num_true: int) -> Tensor:
    """For each frame, what decoding loses of the last true frame before its latent step; zero for frame 0.

    lost: (batch, 1 + step * n, channel, *space). Latents 0 to `num_true` - 1 are true ones.
    """
    known = lost[:, : step * (num_true - 1) + 1 : step]
    last = known[:, -1:].expand(-1, (lost.shape[1] - 1) // step - num_true, *lost.shape[2:])
    chunks = torch.cat([known, last], dim=1).repeat_interleave(step, dim=1)
    return torch.cat([torch.zeros_like(lost[:, :1]), chunks], dim=1)
