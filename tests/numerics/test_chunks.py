"""A trajectory in chunks equals the whole; a rollout with kept keys and values equals one that recomputes: float64."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from tests.numerics.test_causality import BOUNDARIES, FIELD_IDS, STRIDES, model_of, shape_of, time_stride
from trainer.models.dynamics import DynamicsModel
from trainer.models.past import Past
from trainer.models.tokeniser import Tokeniser

CASES = [(rank, boundary) for rank in (2, 3) for boundary in BOUNDARIES[rank]]
WAYS = {"single steps": (1,) * 6, "uneven": (2, 1, 3), "two": (5, 1)}


def in_chunks(whole: Tensor, steps: tuple[int, ...], *, size: int) -> list[Tensor]:
    """whole: (batch, 1 + size * sum(steps), …): the first chunk has one frame more, the frame that stands alone."""
    return list(whole.split([1 + size * steps[0], *(size * count for count in steps[1:])], dim=1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("modulation", ["csm", "ckm"])
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize(("rank", "boundary"), CASES)
def test_encoding_and_decoding_in_chunks_equals_the_whole(rank, boundary, strides, modulation, way) -> None:
    torch.manual_seed(0)
    tokeniser = Tokeniser(field_names=("a", "b", "c"), shape=shape_of(rank, modulation)).double()
    step, size = time_stride(strides), (8, 6, 4)[:rank]
    fields = torch.randn(1, 1 + sum(WAYS[way]) * step, 2, *size, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "boundary": boundary, "strides": strides}
    with torch.no_grad():
        past = Past()
        latents = [tokeniser.encode(chunk, **place, past=past) for chunk in in_chunks(fields, WAYS[way], size=step)]
        whole = tokeniser.encode(fields, **place)
        torch.testing.assert_close(torch.cat(latents, dim=1), whole)
        past = Past()
        decoded = [tokeniser.decode(chunk, **place, size=size, past=past) for chunk in latents]
        torch.testing.assert_close(torch.cat(decoded, dim=1), tokeniser.decode(whole, **place, size=size))


def test_a_later_chunk_that_leaves_a_latent_half_filled_is_refused() -> None:
    tokeniser, past = model_of(2).tokeniser, Past()
    place = {"field_ids": FIELD_IDS, "boundary": BOUNDARIES[2][0], "strides": ((2, 2), (1, 2)), "past": past}
    tokeniser.encode(torch.randn(1, 3, 2, 8, 8, dtype=torch.float64), **place)
    with pytest.raises(ValueError, match="3 frames are not a multiple of the time stride 2"):
        tokeniser.encode(torch.randn(1, 3, 2, 8, 8, dtype=torch.float64), **place)


def test_what_is_remembered_does_not_grow_with_the_trajectory() -> None:
    tokeniser, past = model_of(2).tokeniser, Past()
    place = {"field_ids": FIELD_IDS, "boundary": BOUNDARIES[2][0], "strides": ((2, 2), (1, 2)), "past": past}
    sizes = []
    for frames in (3, 2, 8, 32):
        tokeniser.encode(torch.randn(1, frames, 2, 8, 8, dtype=torch.float64), **place)
        memories = [past.of(layer).kept for layer in tokeniser.modules() if past.of(layer).kept is not None]
        sizes.append(sum(memory.untyped_storage().nbytes() for memory in memories))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("rank", "boundary"), CASES)
def test_the_processor_in_chunks_equals_the_whole(rank, boundary, way) -> None:
    processor = model_of(rank).processor
    latents = torch.randn(2, 1 + sum(WAYS[way]), 3, *(4, 2, 3)[:rank], dtype=torch.float64)
    past = Past()
    with torch.no_grad():
        chunks = [processor(chunk, boundary, past=past) for chunk in in_chunks(latents, WAYS[way], size=1)]
        torch.testing.assert_close(torch.cat(chunks, dim=1), processor(latents, boundary))


def recomputed(model: DynamicsModel, latents: Tensor, boundary, *, seen: list[int]) -> list[Tensor]:
    """The latents that follow, each from the whole of the last `seen` ones, nothing kept between two steps."""
    for count in seen:
        following = model.processor(latents[:, -count:], boundary)[:, -1:]
        latents = torch.cat([latents, following], dim=1)
    return latents[:, -len(seen) :].split(1, dim=1)


@pytest.mark.parametrize(
    ("max_latents", "seen"),
    [
        (None, [3, 4, 5, 6, 7, 8, 9]),
        (20, [3, 4, 5, 6, 7, 8, 9]),
        (4, [3, 4, 2, 3, 4, 2, 3]),
        (1, [1] * 7),
        (2, [2, 1, 2]),
    ],
)
@pytest.mark.parametrize(("rank", "boundary"), CASES)
def test_a_rollout_with_kept_keys_equals_recomputation(rank, boundary, max_latents, seen) -> None:
    model = model_of(rank)
    latents = torch.randn(2, 3, 3, *(4, 2, 3)[:rank], dtype=torch.float64)
    with torch.no_grad():
        kept = list(islice(model.follow(latents, boundary, max_latents=max_latents), len(seen)))
        assert [one.shape[1] for one in kept] == [seen[0], *[1] * (len(seen) - 1)]
        for one, other in zip(kept, recomputed(model, latents, boundary, seen=seen), strict=True):
            torch.testing.assert_close(one[:, -1:], other)


@pytest.mark.parametrize("strides", STRIDES)
def test_a_rollout_decodes_chunk_by_chunk_what_decoding_it_whole_gives(strides) -> None:
    model, boundary, step = model_of(2), BOUNDARIES[2][1], time_stride(strides)
    context = torch.randn(1, 1 + step, 2, 8, 8, dtype=torch.float64)
    place = {"field_ids": FIELD_IDS, "boundary": boundary, "strides": strides}
    with torch.no_grad():
        latents = model.tokeniser.encode(context, **place)
        whole = torch.cat([latents[:, :1], *islice(model.follow(latents, boundary), 3)], dim=1)
        expected = model.tokeniser.decode(whole, **place, size=(8, 8))[:, 1 + step :]
        torch.testing.assert_close(model.rollout(context, 3 * step, **place), expected)
