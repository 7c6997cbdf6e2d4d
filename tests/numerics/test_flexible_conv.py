"""The flexible convolutions against plain loops in float64, written from their definitions."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.flexible_conv import (
    FlexibleKernel,
    causal_conv,
    causal_conv_transpose,
    resize_kernel,
    resize_matrix,
    total_stride,
)

PERIODIC, WALL, OPEN, MIXED = (
    ("periodic", "periodic"),
    ("wall", "wall"),
    ("open", "open"),
    ("wall", "open"),
)
CASES = [
    # frames, size, kernel, stride, boundary
    (5, (4, 6), (1, 3, 3), (1, 1, 1), (PERIODIC, WALL)),
    (5, (4, 8), (2, 4, 4), (2, 2, 2), (PERIODIC, OPEN)),
    (5, (4, 4), (4, 4, 4), (4, 4, 2), (MIXED, PERIODIC)),
    (3, (6, 4), (3, 5, 4), (1, 3, 1), (PERIODIC, PERIODIC)),
    (1, (2, 4), (2, 8, 8), (2, 2, 4), (PERIODIC, WALL)),
    (3, (2, 4, 2), (2, 3, 4, 2), (2, 1, 2, 2), (PERIODIC, WALL, OPEN)),
]


def wrapped(position: int, cells: int, sides: tuple[str, str]) -> int | None:
    """The cell that stands at `position`, or None for the zeros beyond a wall or open side."""
    if 0 <= position < cells:
        return position
    return position % cells if sides[0] == "periodic" else None


def loop_conv(x: Tensor, weight: Tensor, bias: Tensor, *, stride: tuple[int, ...], boundary: tuple) -> Tensor:
    """Z[j, a] = sum over tap, u of w[tap, u] X[s_t j - (k_t - 1) + tap, s a - low + u], the first frame repeated."""
    kernel = weight.shape[2:]
    size = [cells // s for cells, s in zip(x.shape[3:], stride[1:], strict=True)]
    z = torch.zeros(x.shape[0], (x.shape[1] - 1) // stride[0] + 1, weight.shape[0], *size, dtype=x.dtype)
    for j, *place in itertools.product(range(z.shape[1]), *(range(n) for n in size)):
        total = bias.clone().expand(x.shape[0], -1)
        for tap, *offset in itertools.product(*(range(k) for k in kernel)):
            frame = max(stride[0] * j - (kernel[0] - 1) + tap, 0)
            cells = [
                wrapped(s * a - (k - s) // 2 + u, n, sides)
                for s, a, k, u, n, sides in zip(
                    stride[1:], place, kernel[1:], offset, x.shape[3:], boundary, strict=True
                )
            ]
            if None not in cells:
                total = total + x[(slice(None), frame, slice(None), *cells)] @ weight[(..., tap, *offset)].T
        z[(slice(None), j, slice(None), *place)] = total
    return z


def loop_transpose(z: Tensor, weight: Tensor, bias: Tensor, *, stride: tuple[int, ...], boundary: tuple) -> Tensor:
    """Every latent adds its kernel where it falls; what falls past a periodic side comes in at the other."""
    kernel = weight.shape[2:]
    frames = 1 + stride[0] * (z.shape[1] - 1)
    size = [n * s for n, s in zip(z.shape[3:], stride[1:], strict=True)]
    y = torch.zeros(z.shape[0], frames, weight.shape[1], *size, dtype=z.dtype)
    y += bias.view(-1, *(1,) * len(size))
    for j, *place in itertools.product(range(z.shape[1]), *(range(n) for n in z.shape[3:])):
        for tap, *offset in itertools.product(*(range(k) for k in kernel)):
            frame = stride[0] * j + tap - (stride[0] - 1)
            cells = [
                wrapped(s * a - (k - s) // 2 + u, n, sides)
                for s, a, k, u, n, sides in zip(stride[1:], place, kernel[1:], offset, size, boundary, strict=True)
            ]
            if 0 <= frame < frames and None not in cells:
                latent = z[(slice(None), j, slice(None), *place)]
                y[(slice(None), frame, slice(None), *cells)] += latent @ weight[(..., tap, *offset)]
    return y


@pytest.mark.parametrize(("frames", "size", "kernel", "stride", "boundary"), CASES)
def test_strided_convolution_equals_plain_loops(frames, size, kernel, stride, boundary) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, frames, 2, *size, dtype=torch.float64)
    weight, bias = torch.randn(3, 2, *kernel, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    z = causal_conv(x, weight, bias=bias, stride=stride, boundary=boundary)
    torch.testing.assert_close(z, loop_conv(x, weight, bias, stride=stride, boundary=boundary))


@pytest.mark.parametrize(("frames", "size", "kernel", "stride", "boundary"), CASES)
def test_transposed_convolution_equals_plain_loops(frames, size, kernel, stride, boundary) -> None:
    torch.manual_seed(0)
    latent_size = [cells // s for cells, s in zip(size, stride[1:], strict=True)]
    z = torch.randn(2, 1 + (frames - 1) // stride[0], 2, *latent_size, dtype=torch.float64)
    weight, bias = torch.randn(2, 3, *kernel, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    y = causal_conv_transpose(z, weight, bias=bias, stride=stride, boundary=boundary)
    torch.testing.assert_close(y, loop_transpose(z, weight, bias, stride=stride, boundary=boundary))


def test_transpose_is_the_adjoint_of_the_convolution_in_space() -> None:
    torch.manual_seed(0)
    boundary, stride = (PERIODIC, WALL), (1, 2, 4)
    weight = torch.randn(3, 2, 1, 4, 7, dtype=torch.float64)
    x = torch.randn(1, 2, 2, 8, 8, dtype=torch.float64)
    z = torch.randn(1, 2, 3, 4, 2, dtype=torch.float64)
    forward = causal_conv(x, weight, bias=None, stride=stride, boundary=boundary)
    backward = causal_conv_transpose(z, weight, bias=None, stride=stride, boundary=boundary)
    torch.testing.assert_close((forward * z).sum(), (x * backward).sum())


@pytest.mark.parametrize("mode", ["linear", "bicubic"])
@pytest.mark.parametrize(("old", "new"), [(4, 4), (4, 8), (4, 6), (3, 16)])
def test_resized_kernel_keeps_the_inner_product_with_resized_data(mode: str, old: int, new: int) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(old, dtype=torch.float64), torch.randn(old, dtype=torch.float64)
    data = x.view(1, 1, old, 1)
    resized = (
        F.interpolate(data[..., 0], size=new, mode="linear")
        if mode == "linear"
        else F.interpolate(data, size=(new, 1), mode="bicubic")
    ).flatten()
    torch.testing.assert_close(resized @ (resize_matrix(old, new, mode=mode) @ w), x @ w)


def test_kernel_resize_acts_on_each_axis_in_turn() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    resized = resize_kernel(weight, (4, 8, 2))
    matrices = [resize_matrix(2, 4, mode="linear")] + [resize_matrix(4, n, mode="bicubic") for n in (8, 2)]
    expected = torch.einsum("abtij,Tt,Ii,Jj->abTIJ", weight, *matrices)
    torch.testing.assert_close(resized, expected)


def test_csm_refuses_a_stride_that_skips_cells() -> None:
    kernel = FlexibleKernel((1, 1), (2, 4, 4))
    with pytest.raises(ValueError, match="longer than the kernel"):
        kernel((1, 8, 4))


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 4, 2), (4, 8, 8)])
def test_ckm_kernel_spans_two_strides(stride: tuple[int, ...]) -> None:
    kernel = FlexibleKernel((2, 3), (2, 4, 4), modulation="ckm")
    assert kernel(stride)[0].shape == (3, 2, max(2, stride[0]), 2 * stride[1], 2 * stride[2])


def test_convolution_keeps_the_variance_at_the_start() -> None:
    torch.manual_seed(0)
    kernel = FlexibleKernel((16, 64), (2, 4, 4))
    z = causal_conv(
        torch.randn(4, 5, 16, 16, 16), kernel((1, 2, 2))[0], bias=None, stride=(1, 2, 2), boundary=(PERIODIC,) * 2
    )
    assert math.isclose(z.std().item(), 1.0, rel_tol=0.1)


@pytest.mark.parametrize("modulation", ["csm", "ckm"])
def test_equal_latents_give_fields_of_one_size_at_every_stride(modulation: str) -> None:
    kernel = FlexibleKernel((2, 3), (2, 8, 8), transposed=True, modulation=modulation).double()
    torch.nn.init.constant_(kernel.weight, 1.0)
    z = torch.ones(1, 2, 2, 4, 4, dtype=torch.float64)
    means = []
    for stride in ((1, 2, 2), (2, 2, 2), (2, 4, 4), (1, 8, 4), (2, 8, 8)):
        weight, _ = kernel(stride)
        y = causal_conv_transpose(z, weight, bias=None, stride=stride, boundary=(PERIODIC, PERIODIC))
        means.append(y[:, -1].mean().item())
    assert max(means) == pytest.approx(min(means), rel=0.02)


@pytest.mark.parametrize("modulation", ["csm", "ckm"])
def test_the_encoder_sees_one_size_at_every_stride(modulation: str) -> None:
    kernel = FlexibleKernel((2, 3), (2, 8, 8), modulation=modulation).double()
    torch.nn.init.constant_(kernel.weight, 1.0)
    x = torch.ones(1, 5, 2, 16, 16, dtype=torch.float64)
    sizes = [
        causal_conv(x, kernel(stride)[0], bias=None, stride=stride, boundary=(PERIODIC, PERIODIC)).mean().item()
        for stride in ((1, 2, 2), (2, 4, 4), (1, 8, 4), (2, 8, 8))
    ]
    assert max(sizes) == pytest.approx(min(sizes), rel=0.02)


@pytest.mark.parametrize(("stride", "expected"), [((1, 4, 4), 1.0), ((1, 2, 2), 0.5)])
def test_a_transposed_kernel_starts_with_fields_of_at_most_the_size_of_its_latents(
    stride: tuple[int, ...], expected: float
) -> None:
    torch.manual_seed(0)
    kernel = FlexibleKernel((64, 16), (1, 4, 4), transposed=True)
    z = torch.randn(4, 3, 64, 8, 8)
    y = causal_conv_transpose(z, kernel(stride)[0], bias=None, stride=stride, boundary=(PERIODIC,) * 2)
    assert math.isclose(y.std().item(), expected, rel_tol=0.1)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("stride", "octaves"), [((1, 2, 2), (-1, -1)), ((2, 8, 8), (0, 1)), ((2, 4, 8), (0, 0.5)), ((1, 4, 4), (-1, 0))]
)
def test_gains_are_parabolas_over_octaves(
    stride: tuple[int, ...], octaves: tuple[float, ...], transposed: bool
) -> None:
    torch.manual_seed(0)
    plain = FlexibleKernel((3, 3), (2, 8, 8), transposed=transposed)
    kernel = FlexibleKernel((3, 3), (2, 8, 8), transposed=transposed, has_gains=True)
    kernel.load_state_dict({**plain.state_dict(), "stride_gains": torch.randn(4, 3)})
    assert kernel.stride_gains is not None
    for channel, (a, b, c, d) in enumerate(kernel.stride_gains.T.tolist()):
        time, space = octaves
        gain = 1 + a * time + b * time**2 + c * space + d * space**2
        torch.testing.assert_close(kernel(stride)[0][channel], plain(stride)[0][channel] * gain)


def test_gains_change_nothing_at_the_kernels_own_stride() -> None:
    kernel = FlexibleKernel((3, 3), (2, 8, 8), has_gains=True)
    torch.nn.init.normal_(kernel.stride_gains)
    weight, _ = kernel((2, 4, 4))
    assert torch.equal(weight, kernel.weight)
    weight.sum().backward()
    assert not kernel.stride_gains.grad.any()  # but there, as every rank and optimiser expects


def test_total_stride_multiplies_levels_and_fills_in_space_axes() -> None:
    assert total_stride([(1, 2), (2, 4, 1, 2)], 3) == (2, 8, 2, 4)
