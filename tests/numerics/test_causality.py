"""No output knows a later input, and moving the data moves the output: by perturbation, in float64."""

import itertools

import pytest
import torch

from trainer.models.dynamics import DynamicsModel
from trainer.models.processor import ProcessorShape
from trainer.models.tokeniser import Tokeniser, TokeniserShape

PERIODIC, WALL, OPEN = ("periodic", "periodic"), ("wall", "wall"), ("open", "open")
BOUNDARIES = {2: [(PERIODIC, PERIODIC), (WALL, OPEN)], 3: [(PERIODIC, WALL, OPEN)]}
STRIDES = [((1, 2), (1, 1)), ((2, 2), (1, 2)), ((1, 1), (2, 2)), ((2, 4), (2, 2)), ((4, 2), (1, 4))]
CASES = [(rank, boundary, strides) for rank in (2, 3) for boundary in BOUNDARIES[rank] for strides in STRIDES]
PROCESSOR = ProcessorShape(width=24, depth=2, num_heads=2, feed_forward=16, residual_scale=1.0)
FIELD_IDS = torch.tensor([2, 0])


def shape_of(rank: int, modulation: str = "csm") -> TokeniserShape:
    """Small, with taps of time everywhere and branches at full size, so that a leak would show."""
    return TokeniserShape(
        space_rank=rank,
        widths=(4, 6),
        kernels=((4, 4), (2, 4)),
        blocks=(1, 1),
        latent_channels=3,
        embedding_width=4,
        block_kernel=(3, 3),
        residual_scale=1.0,
        modulation=modulation,
    )


def model_of(rank: int) -> DynamicsModel:
    torch.manual_seed(0)
    return DynamicsModel(field_names=("a", "b", "c"), tokeniser=shape_of(rank), processor=PROCESSOR).double()


def time_stride(strides: tuple[tuple[int, int], ...]) -> int:
    return strides[0][0] * strides[1][0]


def changed_frames(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return [t for t in range(before.shape[1]) if not torch.equal(before[:, t], after[:, t])]


@pytest.mark.parametrize(("rank", "boundary", "strides"), CASES)
def test_a_frame_changes_no_latent_before_it_and_every_latent_of_its_step(rank, boundary, strides) -> None:
    tokeniser, step = model_of(rank).tokeniser, time_stride(strides)
    fields = torch.randn(1, 1 + 2 * step, 2, *(8,) * rank, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "boundary": boundary, "strides": strides}
    with torch.no_grad():
        before = tokeniser.encode(fields, **place)
        for frame in range(fields.shape[1]):
            moved = fields.clone()
            moved[:, frame] += 1.0
            first = -(-frame // step)
            changed = changed_frames(before, tokeniser.encode(moved, **place))
            assert changed[0] == first


@pytest.mark.parametrize(("rank", "boundary", "strides"), CASES)
def test_a_latent_changes_no_frame_before_its_chunk(rank, boundary, strides) -> None:
    tokeniser, step = model_of(rank).tokeniser, time_stride(strides)
    fields = torch.randn(1, 1 + 2 * step, 2, *(8,) * rank, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "boundary": boundary, "strides": strides}
    with torch.no_grad():
        latents = tokeniser.encode(fields, **place)
        before = tokeniser.decode(latents, **place, size=(8,) * rank)
        for j in range(latents.shape[1]):
            moved = latents.clone()
            moved[:, j] += 1.0
            after = tokeniser.decode(moved, **place, size=(8,) * rank)
            assert changed_frames(before, after)[0] == max(0, (j - 1) * step + 1)


@pytest.mark.parametrize(("rank", "boundary", "strides"), CASES)
def test_a_prediction_knows_only_the_latent_steps_before_it(rank, boundary, strides) -> None:
    model, step = model_of(rank), time_stride(strides)
    fields = torch.randn(1, 1 + 3 * step, 2, *(8,) * rank, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "boundary": boundary, "strides": strides}
    with torch.no_grad():
        before = model(fields, **place)
        moved = fields.clone()
        moved[:, 1 + step :] += 1.0  # all frames after the first latent step
        after = model(moved, **place)
    assert changed_frames(before.latents, after.latents) == [2]
    assert changed_frames(before.fields, after.fields)[0] == 1 + 2 * step


@pytest.mark.parametrize("modulation", ["csm", "ckm"])
@pytest.mark.parametrize("strides", STRIDES)
def test_rolling_a_periodic_axis_by_the_stride_rolls_the_reconstruction(strides, modulation) -> None:
    torch.manual_seed(0)
    tokeniser = Tokeniser(field_names=("a", "b", "c"), shape=shape_of(2, modulation)).double()
    fields = torch.randn(1, 1 + time_stride(strides), 2, 16, 16, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "boundary": (WALL, PERIODIC), "strides": strides}
    shift = strides[0][1] * strides[1][1]
    with torch.no_grad():
        rolled = tokeniser(fields.roll(shift, -1), **place)
        torch.testing.assert_close(rolled, tokeniser(fields, **place).roll(shift, -1))


def test_rolling_periodic_axes_rolls_the_prediction_in_3d() -> None:
    model = model_of(3)
    fields = torch.randn(1, 3, 2, 8, 12, 8, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "boundary": (PERIODIC,) * 3, "strides": ((1, 2), (1, 2))}
    with torch.no_grad():
        rolled = model(fields.roll((4, 8), (-1, -2)), **place).fields
        torch.testing.assert_close(rolled, model(fields, **place).fields.roll((4, 8), (-1, -2)))


def test_walls_and_open_sides_are_told_apart() -> None:
    tokeniser = model_of(2).tokeniser
    fields = torch.randn(1, 1, 2, 8, 8, dtype=torch.float64)
    outputs = [
        tokeniser(fields, field_ids=FIELD_IDS, boundary=boundary, strides=((1, 2), (1, 2)))
        for boundary in itertools.product([PERIODIC, WALL, OPEN], repeat=2)
    ]
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.allclose(one, other)


def test_each_side_of_an_axis_counts_by_itself() -> None:
    tokeniser = model_of(2).tokeniser
    fields = torch.randn(1, 1, 2, 32, 8, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "strides": ((1, 2), (1, 1))}
    with torch.no_grad():
        walls = tokeniser.encode(fields, boundary=(WALL, PERIODIC), **place)
        opened = tokeniser.encode(fields, boundary=(("open", "wall"), PERIODIC), **place)
    differs = (walls != opened).flatten(0, 2).any(0).any(-1)
    assert differs[0]
    assert not differs[-4:].any()
