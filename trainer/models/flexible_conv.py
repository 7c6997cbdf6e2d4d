"""Causal convolutions whose space-time compression is chosen at run time.

Owns the strided causal convolution, its transposed mirror, the padding of periodic, wall and open sides, and
the two ways to change compression with one set of weights (Mukhopadhyay et al. 2025, arXiv 2507.09264):
"csm" keeps the kernel and moves the stride, "ckm" resizes the kernel to the stride by a pseudo-inverse.
Used by `blocks` and `tokeniser`. It knows nothing of fields, batches or training.

Tensors are (batch, time, channel, *space) and every function works for two and three space axes: the taps of
time are stacked as channels, so one convolution over space does the work exactly. A kernel of three serves two as well:
what lies in a plane counts as the same all along the third axis. In memory channels come last, whatever the shape says:
there convolutions are fastest, on GPUs and CPUs.
With stride s in time, 1 + s n frames become 1 + n latents; latent j sees frames up to s j only. A trajectory may come
in chunks: with the same memory, s m further frames become m further latents, as if all had come at once.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from trainer.models.past import Memory, Past, memory_of

Boundary = tuple[tuple[str, str], ...]
"""One (low, high) pair per space axis, each "periodic", "wall" or "open".

An axis is periodic at both sides or at none (manifests that say otherwise are refused): models ask its low side alone.
"""

Stride = tuple[int, ...]
"""(time, *space), or (time, space) for the same stride along every space axis."""

MODULATIONS = ("csm", "ckm")


def full_stride(stride: Stride, space_rank: int) -> Stride:
    """The stride with one number for time and one for each space axis."""
    if len(stride) == 2:
        return (stride[0],) + (stride[1],) * space_rank
    if len(stride) != 1 + space_rank:
        raise ValueError(f"stride {stride} needs 2 or {1 + space_rank} numbers for {space_rank} space axes")
    return stride


def total_stride(strides: Sequence[Stride], space_rank: int) -> Stride:
    """The product of the strides of all levels, along time and each space axis."""
    full = [full_stride(stride, space_rank) for stride in strides]
    return tuple(math.prod(axis) for axis in zip(*full, strict=True))


def pad_axis(x: Tensor, dim: int, *, pad: tuple[int, int], sides: tuple[str, str]) -> Tensor:
    """x with `pad` = (low, high) more cells along `dim`: wrapped where periodic, else zero."""
    if pad == (0, 0):
        return x
    if sides[0] == "periodic":
        if max(pad) <= x.shape[dim]:
            low, high = x.narrow(dim, x.shape[dim] - pad[0], pad[0]), x.narrow(dim, 0, pad[1])
            return torch.cat([low, x, high], dim=dim)
        # more than one period is wanted
        index = torch.arange(-pad[0], x.shape[dim] + pad[1], device=x.device) % x.shape[dim]
        return x.index_select(dim, index)
    last_first = [0, 0] * (x.ndim - 1 - dim % x.ndim) + list(pad)
    return F.pad(x, last_first)


def pad_space(x: Tensor, pads: Sequence[tuple[int, int]], *, boundary: Boundary) -> Tensor:
    """x: (batch, time, channel, *space) padded along its axes of space, by (low, high) cells each."""
    cells = x.movedim(2, -1)
    for axis, (pad, sides) in enumerate(zip(pads, boundary, strict=True)):
        cells = pad_axis(cells, axis + 2, pad=pad, sides=sides)
    return cells.movedim(-1, 2)


def split_padding(kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Cells to add (low, high) per axis so that a strided convolution gives size / stride positions."""
    excess = [k - s for k, s in zip(kernel, stride, strict=True)]
    return [(e // 2, e - e // 2) for e in excess]


def causal_conv(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    stride: Stride,
    boundary: Boundary,
    memory: Memory | None = None,
) -> Tensor:
    """Strided convolution that never looks at a later frame; before the first frame stand copies of it.

    x: (batch, 1 + s n, channel_in, *space), each size a multiple of its stride.
    weight: (channel_out, channel_in, kernel_time, *kernel_space), no axis shorter than its stride.
    Gives (batch, 1 + n, channel_out, *space / stride).
    """
    pads = split_padding(weight.shape[3:], stride[1:])
    padded = pad_space(x, pads, boundary=boundary)
    return causal_conv_padded(padded, weight, bias=bias, stride=stride, memory=memory)


def causal_conv_padded(
    x: Tensor, weight: Tensor, *, bias: Tensor | None, stride: Stride, memory: Memory | None = None
) -> Tensor:
    """`causal_conv` of an x whose space axes are padded already."""
    batch = x.shape[0]
    x = stack_taps(x, kernel=weight.shape[2], stride=stride[0], memory=memory)
    taps_as_channels = rearrange(weight, "out channel tap ... -> out (tap channel) ...")
    convolve = F.conv2d if len(stride) == 3 else F.conv3d
    y = convolve(x.flatten(0, 1), taps_as_channels, bias, stride=stride[1:])
    return rearrange(y, "(batch time) ... -> batch time ...", batch=batch)


def stack_taps(x: Tensor, *, kernel: int, stride: int, memory: Memory | None = None) -> Tensor:
    """Every `stride`-th frame with the `kernel` - 1 frames before it: (batch, 1 + n, tap channel, *space).

    Of a later chunk, frame `stride` - 1 is the first that is taken, and the frames before it are those remembered.
    """
    before = None if memory is None else memory.kept
    first = 0 if before is None else stride - 1
    if before is None:
        before = x[:, :1].expand(-1, kernel - 1, *x.shape[2:])
    padded = torch.cat([before.movedim(2, -1), x.movedim(2, -1)], dim=1) if kernel > 1 else x.movedim(2, -1)
    if memory is not None:
        kept = padded[:, padded.shape[1] - (kernel - 1) :].clone()  # a view would hold the whole chunk
        memory.kept = kept.movedim(-1, 2)
    taps = [padded[:, first + tap : tap + x.shape[1] : stride] for tap in range(kernel)]
    stacked = taps[0] if kernel == 1 else torch.cat(taps, dim=-1)
    return stacked.contiguous().movedim(-1, 2)


def causal_conv_transpose(
    z: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    stride: Stride,
    boundary: Boundary,
    memory: Memory | None = None,
) -> Tensor:
    """The mirror of `causal_conv`: latent j first reaches frame s (j - 1) + 1, and frame 0 sees latent 0 only.

    z: (batch, 1 + n, channel_in, *space); weight: (channel_in, channel_out, kernel_time, *kernel_space), no
    axis shorter than its stride. Gives (batch, 1 + s n, channel_out, *space * stride).
    """
    batch, kernel = z.shape[0], weight.shape[2]
    space_kernel, space_stride = weight.shape[3:], stride[1:]
    crops = split_padding(space_kernel, space_stride)
    # enough cells beyond each side that every output inside sees all the latents that reach it
    halo = [-(-high // s) for (_, high), s in zip(crops, space_stride, strict=True)]
    size = [n * s for n, s in zip(z.shape[3:], space_stride, strict=True)]
    padded = pad_space(z, [(h, h) for h in halo], boundary=boundary)
    taps_as_channels = rearrange(weight, "channel out tap ... -> channel (tap out) ...")
    convolve = F.conv_transpose2d if len(stride) == 3 else F.conv_transpose3d
    crop = [h * s + low for h, s, (low, _) in zip(halo, space_stride, crops, strict=True)]
    y = convolve(padded.flatten(0, 1), taps_as_channels, None, stride=space_stride, padding=crop)
    for axis, cells in enumerate(size):
        y = y.narrow(axis + 2, 0, cells)
    taps = rearrange(y, "(batch time) ... -> batch time ...", batch=batch)
    y = overlap_taps(taps, kernel=kernel, stride=stride[0], memory=memory)
    return y if bias is None else y + bias.view(-1, *(1,) * len(size))


def overlap_taps(y: Tensor, *, kernel: int, stride: int, memory: Memory | None = None) -> Tensor:
    """Add up the taps where they fall in time: (batch, 1 + n, tap channel, *space) -> 1 + stride n frames.

    What falls beyond the last frame is remembered for the next chunk, which gives `stride` frames for each latent.
    """
    latents = y.shape[1]
    before = None if memory is None else memory.kept
    if kernel == stride:
        # each frame comes of one latent
        taps = rearrange(y, "batch time (tap channel) ... -> batch (time tap) ... channel", tap=kernel)
        frames = taps.movedim(-1, 2)
    else:
        taps = rearrange(y, "batch time (tap channel) ... -> tap batch time ... channel", tap=kernel)
        cells = taps.new_zeros(taps.shape[1], stride * (latents - 1) + kernel, *taps.shape[3:])
        for tap in range(kernel):
            cells[:, tap : tap + stride * (latents - 1) + 1 : stride] += taps[tap]
        frames = cells.movedim(-1, 2)
        if before is not None:
            frames[:, : kernel - stride] += before
    if memory is not None:
        memory.kept = frames[:, stride * latents :].clone()
    return frames[:, stride - 1 if before is None else 0 : stride * latents]


@functools.lru_cache(maxsize=256)
def resize_matrix(old: int, new: int, *, mode: str) -> Tensor:
    """P: (new, old), float64, the kernel resize of FlexiViT (Beyer et al. 2023): pinv(B^T), B the interpolation.

    For new >= old it keeps every inner product: <resize(x), P w> = <x, w>. `mode` is "linear" or "bicubic".
    """
    # a tensor made under a meta-device context would hold no numbers, so the device is named
    impulses = torch.eye(old, dtype=torch.float64, device="cpu")
    if mode == "linear":
        interpolated = F.interpolate(impulses[:, None], size=new, mode="linear")[:, 0]
    else:
        interpolated = F.interpolate(impulses[:, None, :, None], size=(new, 1), mode="bicubic")[:, 0, :, 0]
    inverse: Tensor = torch.linalg.pinv(interpolated)
    return inverse


def resize_kernel(weight: Tensor, kernel: Sequence[int]) -> Tensor:
    """weight: (a, b, kernel_time, *kernel_space) resized to `kernel`, one axis after the other."""
    for axis, (old, new) in enumerate(zip(weight.shape[2:], kernel, strict=True)):
        if old != new:
            matrix = resize_matrix(old, new, mode="linear" if axis == 0 else "bicubic").to(weight)
            weight = torch.movedim(torch.movedim(weight, axis + 2, -1) @ matrix.T, -1, axis + 2)
    return weight


class FlexibleKernel(nn.Module):
    """A kernel and its bias, given out in the size and for the space axes that a stride asks for.

    `transposed` swaps the two channel axes of the weight. With "ckm" the kernel given out spans `overlap`
    strides along every axis; with "csm" it is the kernel itself, whatever the stride up to its size.
    `has_gains`: each channel of the coarse side has a gain that is learned as a function of the stride, see `gains_at`.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: tuple[int, ...],
        *,
        transposed: bool = False,
        bias: bool = True,
        modulation: str = "csm",
        overlap: int = 2,
        gain: float = 1.0,
        has_gains: bool = False,
    ) -> None:
        super().__init__()
        if modulation not in MODULATIONS:
            raise ValueError(f"modulation {modulation!r} is none of {', '.join(MODULATIONS)}")
        self.modulation, self.transposed, self.overlap = modulation, transposed, overlap
        shape = channels[::-1] if not transposed else channels
        self.weight = nn.Parameter(torch.empty(*shape, *kernel))
        self.bias = nn.Parameter(torch.empty(channels[1])) if bias else None
        self.stride_gains = nn.Parameter(torch.empty(4, shape[0])) if has_gains else None
        fan_in = channels[0] * (overlap ** (2 * len(kernel) - 2) if transposed else math.prod(kernel))
        self.gain = gain * fan_in**-0.5
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights so that the variance of the input passes through; biases start at zero.

        Through a transposed kernel it passes where no latents overlap; where they do, their mean is smaller.
        """
        nn.init.normal_(self.weight, std=self.gain)
        for parameter in (self.bias, self.stride_gains):
            if parameter is not None:
                nn.init.zeros_(parameter)

    def forward(self, stride: Stride) -> tuple[Tensor, Tensor | None]:
        """The weight for this stride, and the bias. Raises ValueError where the stride would skip cells.

        A stride of fewer axes than the kernel is of data that is the same all along the others. A forward, and views:
        ZeRO-3 gathers a module's parameters for the length of its forward alone.
        """
        bias = None if self.bias is None else self.bias.view_as(self.bias)
        weight = self.weight.view_as(self.weight)
        others = weight.ndim - 2 - len(stride)
        stride = stride + stride[-1:] * others
        if self.modulation == "ckm":
            time_kernel = max(weight.shape[2], stride[0])
            weight = resize_kernel(weight, (time_kernel, *(self.overlap * s for s in stride[1:])))
        elif any(s > k for s, k in zip(stride, weight.shape[2:], strict=True)):
            raise ValueError(f"stride {stride} is longer than the kernel {tuple(weight.shape[2:])}")
        scale = self.scale_at(stride)
        weight = weight if scale == 1.0 else weight * scale
        if self.stride_gains is not None:
            gains = self.gains_at(stride, self.stride_gains)
            weight = (weight * gains.view(-1, *(1,) * (weight.ndim - 1))).to(weight.dtype)
        for _ in range(others):
            # each tap sees the same; of a transposed kernel, the mean over the cells that come of one
            weight = weight.sum(-1) / stride[-1] if self.transposed else weight.sum(-1)
        return weight, bias

    def scale_at(self, stride: Stride) -> float:
        """The factor by which equal latents give fields of one size at every stride, however many reach a cell.

        Without it one transposed kernel cannot serve several strides: a cell sums (kernel / stride) latents of each
        axis, and a resized kernel keeps its sum where it should keep its height.
        """
        return math.prod(self.against_own(stride)) if self.transposed else 1.0

    def gains_at(self, stride: Stride, rows: Tensor) -> Tensor:
        """(channel of the coarse side,): for each a parabola over the octaves between the stride and the kernel's own,
        in time and in space, of which `rows`: (4, channel) are the coefficients. It is 1 at the kernel's own stride.

        The one thing that strides do not share. Without it a tokeniser for several compressions is worse at the
        lightest of them than one for that alone, with it no more: `tests.benchmarks.test_one_for_all`.
        """
        time, *space = (math.log2(factor) for factor in self.against_own(stride))
        mean = sum(space) / len(space)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))  # bfloat16 has no step below 1% at 1
        gains = torch.ones_like(rows[0])
        for octaves, row in zip((time, time * time, mean, mean * mean), rows, strict=True):
            gains = gains + octaves * row
        return gains

    def against_own(self, stride: Stride) -> tuple[float, ...]:
        """The stride over the kernel's own: its extent in time, 1 / `overlap` of its extent in space."""
        time, *space = (s / k for s, k in zip(stride, self.weight.shape[2:], strict=True))
        return time, *(self.overlap * part for part in space)


class CausalConv(nn.Module):
    """`causal_conv` with its own weights: (batch, time, channels[0], *space) -> (…, channels[1], *space / s)."""

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: tuple[int, ...],
        *,
        modulation: str = "csm",
        gain: float = 1.0,
        has_gains: bool = False,
    ) -> None:
        super().__init__()
        self.kernel = FlexibleKernel(channels, kernel, modulation=modulation, gain=gain, has_gains=has_gains)

    def forward(self, x: Tensor, stride: Stride, boundary: Boundary, past: Past | None = None) -> Tensor:
        weight, bias = self.kernel(stride)
        memory = memory_of(past, self)
        return causal_conv(x, weight, bias=bias, stride=stride, boundary=boundary, memory=memory)


class CausalConvTranspose(nn.Module):
    """`causal_conv_transpose` with its own weights: the mirror of `CausalConv`."""

    def __init__(
        self, channels: tuple[int, int], kernel: tuple[int, ...], *, modulation: str = "csm", has_gains: bool = False
    ) -> None:
        super().__init__()
        self.kernel = FlexibleKernel(channels, kernel, modulation=modulation, transposed=True, has_gains=has_gains)

    def forward(self, z: Tensor, stride: Stride, boundary: Boundary, past: Past | None = None) -> Tensor:
        weight, bias = self.kernel(stride)
        memory = memory_of(past, self)
        return causal_conv_transpose(z, weight, bias=bias, stride=stride, boundary=boundary, memory=memory)
