"""Causality and equivariance at every stride that is asked for, in two and three axes of space, periodic or not."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from trainer.models.tokeniser import Tokeniser, TokeniserShape

PERIODIC, WALL, OPEN = ("periodic", "periodic"), ("wall", "wall"), ("open", "wall")
SIDES = {"periodic": (PERIODIC, PERIODIC, PERIODIC), "closed": (WALL, OPEN, WALL)}
TOTALS = list(itertools.product((1, 2, 4), (1, 2, 4, 8)))
"""(time, space)"""
CASES = [pytest.param(r, s, t, id=f"{r}D-{s}-{t[0]}x{t[1]}") for r in (2, 3) for s in SIDES for t in TOTALS]


def tokeniser_of(rank: int) -> Tokeniser:
    """Taps of time everywhere and branches at full size, so that a leak would show."""
    torch.manual_seed(0)
    shape = TokeniserShape(
        space_rank=rank,
        widths=(3, 4),
        kernels=((2, 4), (2, 2)),
        blocks=(1, 1),
        latent_channels=2,
        embedding_width=3,
        block_kernel=(2, 3),
        residual_scale=1.0,
    )
    return Tokeniser(field_names=("a",), shape=shape).double()


def levels_of(total: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    time, space = total
    return ((min(time, 2), min(space, 4)), (max(1, time // 2), max(1, space // 4)))


def place_of(rank: int, sides: str, total: tuple[int, int]) -> dict[str, object]:
    return {"field_ids": torch.tensor([0]), "boundary": SIDES[sides][:rank], "strides": levels_of(total)}


def reaches(output: Tensor, source: Tensor) -> list[list[bool]]:
    """[t][f]: whether the block of the Jacobian from source[:, f] to output[:, t] is other than zero.

    A random combination of a block's rows is zero if and only if the block is, but for chance of measure zero.
    """
    combined = (output * torch.randn_like(output)).flatten(2).sum((0, 2))
    rows = [torch.autograd.grad(value, source, retain_graph=True)[0] for value in combined]
    return [[bool(row[:, f].any()) for f in range(source.shape[1])] for row in rows]


@pytest.mark.parametrize(("rank", "sides", "total"), CASES)
def test_no_block_of_the_jacobian_looks_ahead(rank: int, sides: str, total: tuple[int, int]) -> None:
    tokeniser, place, step = tokeniser_of(rank), place_of(rank, sides, total), total[0]
    fields = torch.randn(1, 1 + 2 * step, 1, *(8,) * rank, dtype=torch.float64, requires_grad=True)
    latents = tokeniser.encode(fields, **place)
    for j, seen in enumerate(reaches(latents, fields)):
        assert seen[step * j]
        assert not any(seen[step * j + 1 :])
    source = latents.detach().requires_grad_()
    decoded = tokeniser.decode(source, **place, size=(8,) * rank)
    for t, seen in enumerate(reaches(decoded, source)):
        chunk = math.ceil(t / step)
        assert seen[chunk]
        assert not any(seen[chunk + 1 :])


@pytest.mark.parametrize(("rank", "sides", "total"), CASES)
def test_what_comes_later_changes_no_bit_of_what_came_before(rank: int, sides: str, total: tuple[int, int]) -> None:
    tokeniser, place, step = tokeniser_of(rank), place_of(rank, sides, total), total[0]
    fields = torch.randn(1, 1 + 2 * step, 1, *(8,) * rank, dtype=torch.float64)
    moved = fields.clone()
    moved[:, 1 + step :] += 1.0
    with torch.no_grad():
        before, after = tokeniser(fields, **place), tokeniser(moved, **place)
    assert torch.equal(before[:, : 1 + step], after[:, : 1 + step])
    assert not torch.equal(before[:, 1 + step :], after[:, 1 + step :])


@pytest.mark.parametrize(
    ("rank", "total"), [pytest.param(r, t, id=f"{r}D-{t[0]}x{t[1]}") for r in (2, 3) for t in TOTALS]
)
def test_rolling_periodic_axes_by_the_total_stride_rolls_latents_and_fields(rank: int, total: tuple[int, int]) -> None:
    tokeniser, place = tokeniser_of(rank), place_of(rank, "periodic", total)
    fields = torch.randn(1, 1 + total[0], 1, *(16, 8, 8)[:rank], dtype=torch.float64)
    axes = tuple(range(-rank, 0))
    with torch.no_grad():
        latents = tokeniser.encode(fields, **place)
        rolled = tokeniser.encode(fields.roll((total[1],) * rank, axes), **place)
        torch.testing.assert_close(rolled, latents.roll((1,) * rank, axes), rtol=1e-12, atol=1e-12)
        size = tuple(fields.shape[3:])
        decoded = tokeniser.decode(latents, **place, size=size)
        again = tokeniser.decode(rolled, **place, size=size)
    torch.testing.assert_close(again, decoded.roll((total[1],) * rank, axes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("total", TOTALS, ids=str)
@pytest.mark.parametrize("size", [(66, 7), (1, 3), (5, 9, 2), (66, 3, 4)], ids=str)
def test_odd_sizes_come_back_and_a_frame_alone_is_as_in_its_window(size: tuple[int, ...], total) -> None:
    tokeniser, place = tokeniser_of(len(size)), place_of(len(size), "closed", total)
    fields = torch.randn(1, 1 + total[0], 1, *size, dtype=torch.float64)
    with torch.no_grad():
        whole = tokeniser(fields, **place)
        alone = tokeniser(fields[:, :1], **place)
    assert whole.shape == fields.shape
    torch.testing.assert_close(alone, whole[:, :1])
