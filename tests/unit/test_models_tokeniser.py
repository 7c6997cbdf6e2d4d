"""The tokeniser: any size, any set of fields, any declared stride, on any vocabulary."""

import pytest
import torch
from torch import nn

from trainer.models.carry import carry_fields
from trainer.models.tokeniser import Tokeniser, TokeniserShape

PERIODIC, WALL, OPEN = ("periodic", "periodic"), ("wall", "wall"), ("open", "open")
FLOW = ("tracer", "pressure", "velocity_x")
EULER = ("density", "energy", "pressure")
SHAPE = TokeniserShape(
    space_rank=2, widths=(8, 12), kernels=((2, 4), (2, 4)), blocks=(1, 1), latent_channels=6, embedding_width=4
)
STRIDES = ((1, 2), (1, 2))


def tokeniser_of(names: tuple[str, ...], seed: int = 0) -> Tokeniser:
    torch.manual_seed(seed)
    return Tokeniser(field_names=names, shape=SHAPE)


@pytest.mark.parametrize("size", [(66, 7), (5, 9), (1, 3), (8, 8)])
@pytest.mark.parametrize("boundary", [(PERIODIC, PERIODIC), (WALL, OPEN)])
def test_any_size_comes_back_as_it_was(size, boundary) -> None:
    fields = torch.randn(1, 3, 3, *size)
    place = {"field_ids": torch.arange(3), "boundary": boundary, "strides": ((1, 2), (2, 2))}
    latents = tokeniser_of(FLOW).encode(fields, **place)
    assert latents.shape == (1, 2, 6, -(-size[0] // 4), -(-size[1] // 4))
    assert tokeniser_of(FLOW)(fields, **place).shape == fields.shape


def test_a_single_frame_encodes_and_decodes_as_in_its_window() -> None:
    tokeniser = tokeniser_of(FLOW)
    fields = torch.randn(2, 5, 3, 8, 8)
    place = {"field_ids": torch.arange(3), "boundary": (PERIODIC, WALL), "strides": ((2, 2), (2, 2))}
    torch.testing.assert_close(tokeniser(fields[:, :1], **place), tokeniser(fields, **place)[:, :1])


def test_channels_follow_their_field_in_any_order() -> None:
    tokeniser = tokeniser_of(FLOW)
    fields, order = torch.randn(1, 2, 3, 8, 8), torch.tensor([2, 0, 1])
    place = {"boundary": (OPEN, WALL), "strides": STRIDES}
    straight = tokeniser(fields, field_ids=torch.arange(3), **place)
    shuffled = tokeniser(fields[:, :, order], field_ids=order, **place)
    torch.testing.assert_close(shuffled, straight[:, :, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("boundary", [(PERIODIC, PERIODIC), (WALL, OPEN)])
@pytest.mark.parametrize("strides", [((1, 1), (1, 1)), ((2, 4), (2, 4))])
def test_every_parameter_takes_part_whatever_the_stride_and_sides(boundary, strides) -> None:
    tokeniser = tokeniser_of(FLOW)
    fields = torch.randn(1, 5, 2, 16, 16)
    tokeniser(fields, field_ids=torch.tensor([0, 2]), boundary=boundary, strides=strides).sum().backward()
    assert [name for name, value in tokeniser.named_parameters() if value.grad is None] == []


def test_frames_that_leave_a_latent_half_filled_are_refused() -> None:
    with pytest.raises(ValueError, match="4 frames are not 1 \\+ a multiple of the time stride 2"):
        tokeniser_of(FLOW)(
            torch.randn(1, 4, 3, 8, 8), field_ids=torch.arange(3), boundary=(WALL, WALL), strides=((2, 2), (1, 2))
        )


def test_strides_for_another_number_of_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="1 strides for the 2 levels"):
        tokeniser_of(FLOW)(
            torch.randn(1, 1, 3, 8, 8), field_ids=torch.arange(3), boundary=(WALL, WALL), strides=((1, 2),)
        )


def test_shape_with_uneven_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="one entry for each level"):
        TokeniserShape(
            space_rank=2, widths=(8,), kernels=((1, 4), (1, 4)), blocks=(1,), latent_channels=2, embedding_width=2
        )


def test_modulation_of_another_name_is_refused() -> None:
    shape = TokeniserShape(
        space_rank=2, widths=(8,), kernels=((1, 4),), blocks=(0,), latent_channels=2, embedding_width=2, modulation="x"
    )
    with pytest.raises(ValueError, match="modulation 'x' is none of csm, ckm"):
        Tokeniser(field_names=FLOW, shape=shape)


ROWS = ("field_embedding.rows", "field_readout.rows", "field_readout.bias")


def test_carried_rows_move_by_name() -> None:
    trained, fresh = tokeniser_of(FLOW, seed=0), tokeniser_of(EULER, seed=1)
    state = carry_fields(trained.state_dict(), fresh.state_dict(), trained_names=FLOW, names=EULER)
    for key in ROWS:
        torch.testing.assert_close(state[key][2], trained.state_dict()[key][1])


def test_new_fields_start_fresh() -> None:
    trained, fresh = tokeniser_of(FLOW, seed=0), tokeniser_of(EULER, seed=1)
    state = carry_fields(trained.state_dict(), fresh.state_dict(), trained_names=FLOW, names=EULER)
    for key in ROWS:
        torch.testing.assert_close(state[key][:2], fresh.state_dict()[key][:2])


def test_carried_tokeniser_reads_a_shared_field_as_before() -> None:
    trained, other = tokeniser_of(FLOW, seed=0), tokeniser_of(EULER, seed=1)
    fields = torch.randn(1, 2, 1, 8, 8)
    place = {"boundary": (PERIODIC, OPEN), "strides": STRIDES}
    before = trained(fields, field_ids=torch.tensor([1]), **place)
    state = carry_fields(trained.state_dict(), other.state_dict(), trained_names=FLOW, names=EULER)
    other.load_state_dict(state)
    torch.testing.assert_close(other(fields, field_ids=torch.tensor([2]), **place), before)


def test_carrying_works_below_a_prefix() -> None:
    trained, fresh = nn.ModuleDict({"tokeniser": tokeniser_of(FLOW)}), nn.ModuleDict({"tokeniser": tokeniser_of(EULER)})
    state = carry_fields(trained.state_dict(), fresh.state_dict(), trained_names=FLOW, names=EULER)
    fresh.load_state_dict(state)


def test_model_builds_and_runs_without_memory() -> None:
    with torch.device("meta"):
        tokeniser = Tokeniser(field_names=FLOW, shape=SHAPE)
        fields, field_ids = torch.empty(1, 3, 3, 64, 64), torch.arange(3)
        out = tokeniser(fields, field_ids=field_ids, boundary=(PERIODIC, WALL), strides=STRIDES)
    assert out.shape == fields.shape
    assert out.device.type == "meta"
