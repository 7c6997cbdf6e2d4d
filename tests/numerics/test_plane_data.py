"""Kernels of three space axes take data of two as what is the same all along the third axis."""

import pytest
import torch
from torch import Tensor

from trainer.models.dynamics import DynamicsModel
from trainer.models.flexible_conv import Boundary, Stride
from trainer.models.processor import ProcessorShape
from trainer.models.tokeniser import Tokeniser, TokeniserShape

PERIODIC, WALLS = ("periodic", "periodic"), ("wall", "open")
STRIDES: tuple[tuple[Stride, ...], ...] = (((1, 4), (1, 2)), ((2, 2), (1, 2)), ((1, 1), (2, 1)))
DEPTH = 16
"""Cells of the third axis, as many as the largest stride and more than a kernel."""
IDS = torch.tensor([0, 2])


def shape_of(modulation: str, *, levels: int = 2, blocks: int = 1) -> TokeniserShape:
    return TokeniserShape(
        space_rank=3,
        widths=(8, 12)[:levels],
        kernels=((2, 8), (2, 4))[:levels],
        blocks=(blocks,) * levels,
        latent_channels=6,
        embedding_width=4,
        modulation=modulation,
    )


def tokeniser_of(shape: TokeniserShape) -> Tokeniser:
    torch.manual_seed(0)
    return Tokeniser(field_names=("a", "b", "c"), shape=shape).double()


def deep(plane: Tensor) -> Tensor:
    """(…, x, y) -> (…, x, y, z), the same all along z."""
    return plane[..., None].expand(*plane.shape, DEPTH)


@pytest.mark.parametrize("modulation", ["csm", "ckm"])
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("sides", [(PERIODIC, PERIODIC), (PERIODIC, WALLS), (WALLS, WALLS)])
def test_latents_of_a_plane_are_those_of_its_volume(
    modulation: str, strides: tuple[Stride, ...], sides: Boundary
) -> None:
    tokeniser, fields = tokeniser_of(shape_of(modulation)), torch.randn(2, 5, 2, 16, 24, dtype=torch.float64)
    plane = tokeniser.encode(fields, field_ids=IDS, boundary=sides, strides=strides)
    volume = tokeniser.encode(deep(fields), field_ids=IDS, boundary=(*sides, PERIODIC), strides=strides)
    torch.testing.assert_close(volume, plane[..., None].expand_as(volume), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("modulation", ["csm", "ckm"])
@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 4), (2, 8)])
def test_fields_of_a_plane_are_the_mean_of_its_volume(modulation: str, stride: Stride) -> None:
    tokeniser = tokeniser_of(shape_of(modulation, levels=1))
    latents, sides = torch.randn(2, 3, 6, 8, 4, dtype=torch.float64), (PERIODIC, WALLS)
    frames = {"field_ids": IDS, "strides": (stride,)}
    size = (8 * stride[1], 4 * stride[1])
    plane = tokeniser.decode(latents, boundary=sides, size=size, **frames)
    around = latents[..., None].expand(*latents.shape, DEPTH)
    volume = tokeniser.decode(around, boundary=(*sides, PERIODIC), size=(*size, DEPTH * stride[1]), **frames)
    torch.testing.assert_close(plane, volume.mean(-1), rtol=1e-10, atol=1e-12)


def test_one_dynamics_model_learns_from_planes_and_volumes() -> None:
    torch.manual_seed(0)
    model = DynamicsModel(
        field_names=("a", "b", "c"),
        tokeniser=shape_of("csm"),
        processor=ProcessorShape(width=24, depth=1, num_heads=2, feed_forward=16),
    )
    for space, sides in (((8, 8), (PERIODIC, WALLS)), ((8, 8, 8), (PERIODIC, WALLS, PERIODIC))):
        model.zero_grad()
        fields = torch.randn(1, 3, 2, *space)
        output = model(fields, field_ids=IDS, boundary=sides, strides=((1, 4), (1, 2)))
        assert output.fields.shape == fields.shape
        output.fields.square().mean().backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_kernels_of_two_axes_refuse_a_volume() -> None:
    shape = TokeniserShape(
        space_rank=2, widths=(8,), kernels=((1, 4),), blocks=(0,), latent_channels=6, embedding_width=4
    )
    with pytest.raises(ValueError, match="data of 3 space axes for kernels of 2"):
        tokeniser_of(shape)(
            torch.zeros(1, 1, 2, 8, 8, 8, dtype=torch.float64),
            field_ids=IDS,
            boundary=(PERIODIC,) * 3,
            strides=((1, 4),),
        )
