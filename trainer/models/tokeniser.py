"""The tokeniser: fields to latents and back, at a compression chosen at run time.

"MAGVIT-Simple": the causal encoder and decoder of MAGVIT-2 (Yu et al. 2023) without quantiser, discriminator,
perceptual loss and adaptive norms, its fixed factors replaced by flexible strides. Owns the table of fields by
name, the encoder and the decoder; `carry` takes a trained one over to another vocabulary.
Used by the stages and by `dynamics`; it never normalises data and never computes a loss.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.models.blocks import ResidualBlock, ResidualStack
from trainer.models.flexible_conv import (
    Boundary,
    CausalConv,
    CausalConvTranspose,
    FlexibleKernel,
    Stride,
    causal_conv_padded,
    causal_conv_transpose,
    full_stride,
    pad_axis,
    pad_space,
    split_padding,
    total_stride,
)
from trainer.models.past import Past, memory_of

SIDES = ("wall", "open")
"""The kinds of side that are told to the network, in the order of their rows."""


@dataclass(frozen=True)
class TokeniserShape:
    """The sizes of a tokeniser. Levels run from the fields to the latents."""

    space_rank: int
    """Space axes of the kernels, 2 or 3; those of 3 serve data of 2 as well, see `flexible_conv`."""
    widths: tuple[int, ...]
    """Channels of each level."""
    kernels: tuple[tuple[int, int], ...]
    """(time, space) extent of the strided kernel of each level; no run-time stride may exceed it."""
    blocks: tuple[int, ...]
    """Residual blocks of each level."""
    latent_channels: int
    embedding_width: int
    """Numbers per field in the table of fields."""
    block_kernel: tuple[int, int] = (1, 3)
    """(time, space) extent of the kernels of the residual blocks."""
    residual_scale: float = 0.1
    """Size of each residual branch at the start; see `ResidualBlock`."""
    modulation: str = "csm"
    """How kernels follow the stride; see `flexible_conv`."""
    stride_gains: bool = True
    """Channels of strided kernels have gains that follow the stride; see `FlexibleKernel.gains_at`."""

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.kernels) == len(self.blocks):
            raise ValueError("widths, kernels and blocks need one entry for each level")

    def extent(self, kernel: tuple[int, int]) -> tuple[int, ...]:
        """The kernel with one number for each axis of space."""
        return (kernel[0],) + (kernel[1],) * self.space_rank

    def strided_channels(self) -> list[tuple[int, int]]:
        """(finer, coarser) channels of every level but the first, whose finer side is the fields."""
        return list(zip(self.widths, self.widths[1:], strict=False))

    def residual_blocks(self) -> nn.ModuleList:
        """The residual blocks of all levels, a list for each."""
        kernel = self.extent(self.block_kernel)
        return nn.ModuleList(
            ResidualStack(ResidualBlock(width, kernel, residual_scale=self.residual_scale) for _ in range(count))
            for width, count in zip(self.widths, self.blocks, strict=True)
        )


class FieldEmbedding(nn.Module):
    """One row per field name and one per kind of side: how each enters the shared first convolution."""

    def __init__(self, num_fields: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(num_fields, width))
        self.sides = nn.Parameter(torch.empty(len(SIDES), width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.rows)
        nn.init.normal_(self.sides)

    def forward(self, field_ids: Tensor) -> Tensor:
        """Rows of the present fields, then of the sides: (channel + 2, width).

        All are scaled by 1 / sqrt(channel), so that the sum over few or many fields has one size.
        """
        rows = torch.cat([self.rows.index_select(0, field_ids), self.sides])
        return rows / math.sqrt(field_ids.numel())


class FieldReadout(nn.Module):
    """One row and one bias per field name: how each leaves the shared last convolution."""

    def __init__(self, num_fields: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(num_fields, width))
        self.bias = nn.Parameter(torch.empty(num_fields))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.rows, std=self.rows.shape[1] ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, field_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (channel, width) and biases (channel,) of the present fields."""
        return self.rows.index_select(0, field_ids), self.bias.index_select(0, field_ids)


class Encoder(nn.Module):
    """Fields to latents. The first level reads the fields with its stride at once.

    Between the blocks' near-zero branches nothing is curved, so a new tokeniser starts as a linear map.
    """

    def __init__(self, shape: TokeniserShape) -> None:
        super().__init__()
        kernels = [shape.extent(kernel) for kernel in shape.kernels]
        first = (shape.embedding_width, shape.widths[0])
        self.stem = FlexibleKernel(first, kernels[0], modulation=shape.modulation, has_gains=shape.stride_gains)
        self.down = nn.ModuleList(
            CausalConv(channels, kernel, modulation=shape.modulation, has_gains=shape.stride_gains)
            for channels, kernel in zip(shape.strided_channels(), kernels[1:], strict=True)
        )
        self.blocks = shape.residual_blocks()
        self.to_latents = CausalConv((shape.widths[-1], shape.latent_channels), shape.extent((1, 1)))

    def forward(
        self, fields: Tensor, rows: Tensor, boundary: Boundary, strides: tuple[Stride, ...], past: Past | None
    ) -> Tensor:
        """fields: (batch, 1 + s n, channel, *space); rows: (channel + 2, width); one full stride per level."""
        x = self.read_fields(fields, rows, boundary, strides, past)
        for level, stride in enumerate(strides):
            if level:
                x = self.down[level - 1](x, stride, boundary, past)
            x = self.blocks[level](x, boundary, past)
        latents: Tensor = self.to_latents(x, (1,) * len(strides[0]), boundary, past)
        return latents

    def read_fields(
        self, fields: Tensor, rows: Tensor, boundary: Boundary, strides: tuple[Stride, ...], past: Past | None
    ) -> Tensor:
        """Embedding and first convolution in one: their weights multiply, so full resolution stays cheap."""
        kernel, bias = self.stem(strides[0])
        weight = torch.einsum("oe...,ce->oc...", kernel, rows)
        whole = total_stride(strides, len(boundary))[1:]
        pads = split_padding(kernel.shape[3:], strides[0][1:])
        filled = [
            (low, high - (cells % -coarse))
            for (low, high), cells, coarse in zip(pads, fields.shape[3:], whole, strict=True)
        ]
        marked = pad_and_mark(fields, filled, boundary=boundary)
        present = weight[:, : marked.shape[2]]
        return causal_conv_padded(marked, present, bias=bias, stride=strides[0], memory=memory_of(past, self.stem))


def pad_and_mark(fields: Tensor, pads: list[tuple[int, int]], *, boundary: Boundary) -> Tensor:
    """fields padded in space, with one channel more for each of `SIDES`, 1 where padding lies beyond it.

    fields: (batch, time, channel, *space). Without walls and open sides no channel is added.
    """
    padded = pad_space(fields, pads, boundary=boundary)
    kinds = {side for sides in boundary for side in sides}
    if kinds == {"periodic"}:
        return padded
    marks = fields.new_zeros(len(SIDES), *fields.shape[3:])
    for axis, (pad, sides) in enumerate(zip(pads, boundary, strict=True)):
        marks = mark_axis(marks, axis + 1, pad=pad, sides=sides)
    shape = (*padded.shape[:2], *marks.shape)
    return torch.cat([padded, marks.expand(shape)], dim=2)


def mark_axis(marks: Tensor, dim: int, *, pad: tuple[int, int], sides: tuple[str, str]) -> Tensor:
    """marks: (kind, *space) grown along `dim` by strips that are 1 in the channel of their own kind of side."""
    if sides[0] == "periodic":
        return pad_axis(marks, dim, pad=pad, sides=sides)
    strips = []
    for cells, side in zip(pad, sides, strict=True):
        shape = list(marks.shape)
        shape[dim] = cells
        kind = marks.new_tensor([float(side == known) for known in SIDES])
        strips.append(kind.view(-1, *(1,) * (marks.ndim - 1)).expand(shape))
    return torch.cat([strips[0], marks, strips[1]], dim=dim)


class Decoder(nn.Module):
    """Latents to fields: the mirror of `Encoder`."""

    def __init__(self, shape: TokeniserShape) -> None:
        super().__init__()
        kernels = [shape.extent(kernel) for kernel in shape.kernels]
        self.from_latents = CausalConv((shape.latent_channels, shape.widths[-1]), shape.extent((1, 1)))
        self.blocks = shape.residual_blocks()
        self.up = nn.ModuleList(
            CausalConvTranspose((coarser, finer), kernel, modulation=shape.modulation, has_gains=shape.stride_gains)
            for (finer, coarser), kernel in zip(shape.strided_channels(), kernels[1:], strict=True)
        )
        last = (shape.widths[0], shape.embedding_width)
        self.head = FlexibleKernel(
            last,
            kernels[0],
            modulation=shape.modulation,
            transposed=True,
            bias=False,
            has_gains=shape.stride_gains,
        )

    def forward(
        self,
        latents: Tensor,
        rows: Tensor,
        bias: Tensor,
        boundary: Boundary,
        strides: tuple[Stride, ...],
        past: Past | None,
    ) -> Tensor:
        """latents: (batch, 1 + n, latent_channel, *space / s) to (batch, 1 + s n, channel, *space)."""
        x = self.from_latents(latents, (1,) * len(strides[0]), boundary, past)
        for level in reversed(range(len(strides))):
            x = self.blocks[level](x, boundary, past)
            if level:
                x = self.up[level - 1](x, strides[level], boundary, past)
        kernel, _ = self.head(strides[0])
        weight = torch.einsum("ie...,ce->ic...", kernel, rows)
        memory = memory_of(past, self.head)
        return causal_conv_transpose(x, weight, bias=bias, stride=strides[0], boundary=boundary, memory=memory)


class Tokeniser(nn.Module):
    """A causal autoencoder of any set of named fields, with the strides of each level chosen at each call.

    `field_names` is the vocabulary: components such as "density" or "momentum_x". `field_ids` are indexes into
    it, one per channel of the fields. `strides` has one entry per level, (time, space) or (time, *space).

    A long trajectory may come in chunks: give the same `past` with each. The first chunk has 1 + s n frames (or
    1 + n latents), the others s m frames (or m latents); together they give what the whole gives.
    """

    def __init__(self, *, field_names: tuple[str, ...], shape: TokeniserShape) -> None:
        super().__init__()
        self.field_names = field_names
        self.shape = shape
        self.field_embedding = FieldEmbedding(len(field_names), shape.embedding_width)
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
        self.field_readout = FieldReadout(len(field_names), shape.embedding_width)

    def encode(
        self,
        fields: Tensor,
        *,
        field_ids: Tensor,
        boundary: Boundary,
        strides: tuple[Stride, ...],
        past: Past | None = None,
    ) -> Tensor:
        """(batch, 1 + s n, channel, *space) to (batch, 1 + n, latent_channel, *ceil(space / s)).

        Raises ValueError for frames that leave a latent half filled.
        """
        strides = self.check_strides(strides, boundary)
        step = total_stride(strides, len(boundary))[0]
        first = 1 if past is None or past.is_new else 0
        if (fields.shape[1] - first) % step:
            expected = "1 + a multiple" if first else "a multiple"
            raise ValueError(f"{fields.shape[1]} frames are not {expected} of the time stride {step}")
        latents: Tensor = self.encoder(fields, self.field_embedding(field_ids), boundary, strides, past)
        return latents

    def decode(
        self,
        latents: Tensor,
        *,
        field_ids: Tensor,
        boundary: Boundary,
        strides: tuple[Stride, ...],
        size: tuple[int, ...],
        past: Past | None = None,
    ) -> Tensor:
        """(batch, 1 + n, latent_channel, *latent_space) to (batch, 1 + s n, channel, *size)."""
        rows, bias = self.field_readout(field_ids)
        fields: Tensor = self.decoder(latents, rows, bias, boundary, self.check_strides(strides, boundary), past)
        for axis, cells in enumerate(size):
            fields = fields.narrow(axis + 3, 0, cells)
        return fields

    def forward(self, fields: Tensor, *, field_ids: Tensor, boundary: Boundary, strides: tuple[Stride, ...]) -> Tensor:
        """The reconstruction of the fields, of the same shape."""
        latents = self.encode(fields, field_ids=field_ids, boundary=boundary, strides=strides)
        size = tuple(fields.shape[3:])
        return self.decode(latents, field_ids=field_ids, boundary=boundary, strides=strides, size=size)

    def check_strides(self, strides: tuple[Stride, ...], boundary: Boundary) -> tuple[Stride, ...]:
        """The strides with one number per axis of the data. Raises ValueError unless there is one for each level, and
        for data of more axes than the kernels have."""
        if len(boundary) > self.shape.space_rank:
            raise ValueError(f"data of {len(boundary)} space axes for kernels of {self.shape.space_rank}")
        if len(strides) != len(self.shape.widths):
            raise ValueError(f"{len(strides)} strides for the {len(self.shape.widths)} levels of the tokeniser")
        return tuple(full_stride(stride, len(boundary)) for stride in strides)
