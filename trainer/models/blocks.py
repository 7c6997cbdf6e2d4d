"""The two repeated parts of the models: the residual convolution block and the attention block.

Owns the norm, the block classes that recomputation wraps, and axial rotary positions. Used by `tokeniser` and
`processor`. A block never mixes a frame with a later one, and its norms see one position of one frame only.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from trainer.models.flexible_conv import Boundary, CausalConv
from trainer.models.past import Memory, Past, memory_of


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each position: x is (batch, time, channel, *space).

    Per position, hence causal and equal for every grid size; the group norm of MAGVIT-2 is neither.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.movedim(2, -1), list(self.scale.shape), self.scale, eps=1e-6).movedim(-1, 2)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))) with causal convolutions: (batch, time, channel, *space).

    `residual_scale` shrinks the last convolution at the start, so that a new tokeniser is close to a linear
    map, which reconstructs early.
    """

    def __init__(self, channels: int, kernel: tuple[int, ...], *, residual_scale: float) -> None:
        super().__init__()
        self.norm_in = ChannelNorm(channels)
        self.conv_in = CausalConv((channels, channels), kernel)
        self.norm_out = ChannelNorm(channels)
        self.conv_out = CausalConv((channels, channels), kernel, gain=residual_scale)

    def forward(self, x: Tensor, boundary: Boundary, past: Past | None = None) -> Tensor:
        still = (1,) * (x.ndim - 2)
        y: Tensor = self.conv_in(F.silu(self.norm_in(x)), still, boundary, past)
        y = self.conv_out(F.silu(self.norm_out(y)), still, boundary, past)
        return x + y


class ResidualStack(nn.ModuleList):
    """Residual blocks, one after the other."""

    def forward(self, x: Tensor, boundary: Boundary, past: Past | None = None) -> Tensor:
        for block in self:
            x = block(x, boundary, past)
        return x


def time_angles(length: int, pairs: int, *, device: torch.device, first: int = 0) -> Tensor:
    """Rotary angles (length, pairs), float64, of the positions in time from `first` on: from one radian per latent
    down to 1/100."""
    frequencies = 100.0 ** -(torch.arange(pairs, dtype=torch.float64, device=device) / max(pairs, 1))
    return torch.arange(first, first + length, device=device)[:, None] * frequencies


def space_angles(size: tuple[int, ...], pairs: int, *, boundary: Boundary, device: torch.device) -> Tensor:
    """Axial rotary angles (positions, axes * pairs), float64, positions in row-major order.

    Frequencies run from half a turn per cell down to a quarter of a turn per 16 cells, the same for every grid
    size. Along a periodic axis they are rounded to whole turns per period, so that attention knows only the
    distance around it.
    """
    frequencies = math.pi * 32.0 ** -(torch.arange(pairs, dtype=torch.float64, device=device) / max(pairs, 1))
    per_axis = []
    for axis, (cells, sides) in enumerate(zip(size, boundary, strict=True)):
        step = frequencies
        if sides[0] == "periodic":
            turns = torch.round(frequencies * cells / (2 * math.pi)).clamp(min=1.0)
            step = turns * (2 * math.pi / cells)
        angles = torch.arange(cells, device=device)[:, None] * step
        shape = [1] * len(size)
        shape[axis] = cells
        per_axis.append(angles.view(*shape, pairs).expand(*size, pairs))
    return torch.cat(per_axis, dim=-1).flatten(0, -2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x: (..., position, head_dim) with its first 2 * pairs numbers rotated pairwise by (position, pairs)."""
    pairs = angles.shape[-1]
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)


class Attention(nn.Module):
    """Multi-head attention over the second axis of (rows, position, channel), RMS norm on queries and keys."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"width {channels} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = channels // num_heads
        self.query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.query_scale = nn.Parameter(torch.ones(self.head_dim))
        self.key_scale = nn.Parameter(torch.ones(self.head_dim))
        self.out = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, angles: Tensor, is_causal: bool, memory: Memory | None = None) -> Tensor:
        """With a memory, the positions also attend to those of earlier chunks, whose keys and values it keeps."""
        split = rearrange(
            self.query_key_value(x), "row pos (part head dim) -> part row head pos dim", part=3, head=self.num_heads
        )
        query = rotate(F.rms_norm(split[0], (self.head_dim,), self.query_scale), angles)
        key = rotate(F.rms_norm(split[1], (self.head_dim,), self.key_scale), angles)
        value, mask = split[2], None
        if memory is not None:
            if memory.kept is not None:
                key, value = (torch.cat(pair, dim=2) for pair in zip(memory.kept, (key, value), strict=True))
                mask, is_causal = self.later_mask(query, key) if is_causal else None, False
            memory.kept = torch.stack([key, value])
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
        y: Tensor = self.out(rearrange(mixed, "row head pos dim -> row pos (head dim)"))
        return y

    @staticmethod
    def later_mask(query: Tensor, key: Tensor) -> Tensor | None:
        """(query, key), True where the query is not before the key; the queries are the last of the keys' positions.

        None for a single query, which sees all.
        """
        new, seen = query.shape[2], key.shape[2]
        if new == 1:
            return None
        return torch.ones(new, seen, dtype=torch.bool, device=query.device).tril(seen - new)


class SwiGlu(nn.Module):
    """Gated feed-forward layer: out(silu(gate) * value) over the last axis."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate_value = nn.Linear(channels, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        y: Tensor = self.out(F.silu(gate) * value)
        return y


class ProcessorBlock(nn.Module):
    """Causal attention over time at each place, then attention over space in each frame beside a SwiGLU.

    The order and the parallel second half are those of Walrus (McCabe et al. 2025).
    x: (batch, time, *space, channel).
    """

    def __init__(self, channels: int, num_heads: int, *, hidden: int, residual_scale: float) -> None:
        super().__init__()
        self.time_norm = nn.RMSNorm(channels, eps=1e-6)
        self.time_attention = Attention(channels, num_heads)
        self.space_norm = nn.RMSNorm(channels, eps=1e-6)
        self.space_attention = Attention(channels, num_heads)
        self.feed_forward = SwiGlu(channels, hidden)
        self.residual_scale = residual_scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Linear layers keep the variance of their input; those that end a branch are shrunk."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        ends = (self.time_attention.out, self.space_attention.out, self.feed_forward.out)
        for end in ends:
            nn.init.normal_(end.weight, std=self.residual_scale * end.in_features**-0.5)

    def forward(self, x: Tensor, boundary: Boundary, past: Past | None = None) -> Tensor:
        batch, time, *space, _ = x.shape
        places: Tensor = x.reshape(batch, time, math.prod(space), x.shape[-1])
        places = places + self.over_time(self.time_norm(places), memory_of(past, self.time_attention))
        normed = self.space_norm(places)
        places = places + self.over_space(normed, tuple(space), boundary) + self.feed_forward(normed)
        return places.view_as(x)

    def over_time(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """x: (batch, time, place, channel); each place attends to its own past."""
        seen = 0 if memory is None or memory.kept is None else memory.kept.shape[3]
        angles = time_angles(x.shape[1], self.time_attention.head_dim // 2, device=x.device, first=seen)
        rows = rearrange(x, "batch time place channel -> (batch place) time channel")
        mixed: Tensor = self.time_attention(rows, angles, True, memory)
        return rearrange(mixed, "(batch place) time channel -> batch time place channel", batch=x.shape[0])

    def over_space(self, x: Tensor, size: tuple[int, ...], boundary: Boundary) -> Tensor:
        """x: (batch, time, place, channel); all places of one frame attend to each other."""
        pairs = self.space_attention.head_dim // (2 * len(size))
        angles = space_angles(size, pairs, boundary=boundary, device=x.device)
        mixed: Tensor = self.space_attention(x.flatten(0, 1), angles, False)
        return mixed.view_as(x)
