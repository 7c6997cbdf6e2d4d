"""Attention with rotary positions against plain loops in float64."""

import math

import pytest
import torch
from torch import Tensor

from trainer.models.blocks import Attention, ProcessorBlock, rotate, space_angles, time_angles

PERIODIC, WALL = ("periodic", "periodic"), ("wall", "wall")
CPU = torch.device("cpu")


def loop_rotate(vector: Tensor, angles: Tensor) -> Tensor:
    """One vector, its numbers i and i + pairs turned together by angle i."""
    turned, pairs = vector.clone(), len(angles)
    for i, angle in enumerate(angles.tolist()):
        a, b = vector[i], vector[i + pairs]
        turned[i] = a * math.cos(angle) - b * math.sin(angle)
        turned[i + pairs] = a * math.sin(angle) + b * math.cos(angle)
    return turned


def unit(vector: Tensor, scale: Tensor) -> Tensor:
    return vector / vector.square().mean().add(torch.finfo(vector.dtype).eps).sqrt() * scale


def loop_attention(attention: Attention, x: Tensor, angles: Tensor, is_causal: bool) -> Tensor:
    """x: (position, channel), head by head and query by query."""
    dim, count = attention.head_dim, x.shape[0]
    query, key, value = (x @ attention.query_key_value.weight.T).chunk(3, dim=-1)
    mixed = torch.zeros_like(x)
    for head in range(attention.num_heads):
        part = slice(head * dim, (head + 1) * dim)
        queries = [loop_rotate(unit(query[i, part], attention.query_scale), angles[i]) for i in range(count)]
        keys = [loop_rotate(unit(key[i, part], attention.key_scale), angles[i]) for i in range(count)]
        for i in range(count):
            seen = range(i + 1) if is_causal else range(count)
            scores = torch.stack([queries[i] @ keys[j] / math.sqrt(dim) for j in seen])
            weights = scores.exp() / scores.exp().sum()
            mixed[i, part] = sum(weights[n] * value[j, part] for n, j in enumerate(seen))
    return mixed @ attention.out.weight.T


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_equals_plain_loops(is_causal: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(24, 2).double()
    torch.nn.init.normal_(attention.query_scale)
    x, angles = torch.randn(3, 6, 24, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([loop_attention(attention, row, angles, is_causal) for row in x])
        torch.testing.assert_close(attention(x, angles, is_causal), expected)


@pytest.mark.parametrize("boundary", [(PERIODIC, PERIODIC), (PERIODIC, WALL)])
def test_rotary_scores_depend_on_the_distance_alone(boundary) -> None:
    torch.manual_seed(0)
    size = (6, 10)
    angles = space_angles(size, 3, boundary=boundary, device=CPU)
    query, key = torch.randn(14, dtype=torch.float64), torch.randn(14, dtype=torch.float64)
    scores = (rotate(query.expand(60, 14), angles) @ rotate(key.expand(60, 14), angles).T).view(*size, *size)
    torch.testing.assert_close(scores[1, 2, 3, 5], scores[2, 4, 4, 7])
    # along the first axis, periodic here, a step over the side is a step like any other
    torch.testing.assert_close(scores[5, 0, 0, 0], scores[2, 0, 3, 0])


def test_positions_beyond_a_wall_are_not_near() -> None:
    angles = space_angles((8,), 4, boundary=(WALL,), device=CPU)
    x = torch.ones(8, 8, dtype=torch.float64)
    scores = rotate(x, angles) @ rotate(x, angles).T
    assert scores[7, 0] < scores[7, 6]


def test_time_angles_grow_by_one_radian_at_most() -> None:
    steps = time_angles(5, 4, device=CPU).diff(dim=0)
    torch.testing.assert_close(steps[0], steps[-1])
    assert steps.max() == 1.0


@pytest.mark.parametrize("size", [(4, 6), (2, 4, 3), (5,)])
def test_one_block_serves_any_number_of_space_axes(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block = ProcessorBlock(24, 2, hidden=16, residual_scale=1.0)
    x = torch.randn(2, 3, *size, 24)
    y = block(x, (PERIODIC,) * len(size))
    assert y.shape == x.shape
    assert not torch.allclose(x, y)


def test_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide into 5 heads"):
        Attention(24, 5)
