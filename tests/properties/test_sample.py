"""One record <-> bytes: exact for every float, strict for every other payload."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from data_prep.contract.checksum import JOIN_BYTES, checksum, checksum_and_extend, extend_checksum, joined_checksum
from data_prep.contract.errors import IntegrityError
from data_prep.contract.manifest import CODEC_OVERHEAD_BYTES, Codec
from data_prep.contract.sample import decode_frame, encode_frame

CODECS = st.sampled_from(get_args(Codec))
BITS = st.integers(0, 2**32 - 1)
FRAMES = arrays(np.uint32, array_shapes(min_dims=2, max_dims=4, max_side=9), elements=BITS).map(
    lambda bits: bits.view(np.float32)
)
"""Every bit pattern: NaNs with payloads, negative zeros, subnormal numbers."""


@given(frame=FRAMES, codec=CODECS)
def test_decoding_gives_the_very_bits_back(frame: np.ndarray, codec: Codec) -> None:
    out = np.empty_like(frame)
    decode_frame(encode_frame(frame, codec), codec, out=out)
    np.testing.assert_array_equal(out.view(np.uint32), frame.view(np.uint32))


@given(frame=FRAMES, codec=CODECS)
def test_a_payload_is_hardly_longer_than_the_frame(frame: np.ndarray, codec: Codec) -> None:
    assert len(encode_frame(frame, codec)) <= frame.nbytes + CODEC_OVERHEAD_BYTES


@given(frame=FRAMES, codec=CODECS)
def test_a_frame_can_be_decoded_into_the_middle_of_a_batch(frame: np.ndarray, codec: Codec) -> None:
    batch = np.full((3, *frame.shape), 7, np.float32)
    decode_frame(memoryview(encode_frame(frame, codec)), codec, out=batch[1])
    np.testing.assert_array_equal(batch[1].view(np.uint32), frame.view(np.uint32))
    assert (batch[[0, 2]] == 7).all()


@given(frame=FRAMES, codec=CODECS, cut=st.integers(1, 2**20))
def test_a_payload_cut_short_is_refused(frame: np.ndarray, codec: Codec, cut: int) -> None:
    payload = encode_frame(frame, codec)
    with pytest.raises(IntegrityError):
        decode_frame(payload[: -min(cut, len(payload))], codec, out=np.empty_like(frame))


@given(frame=FRAMES, codec=CODECS)
def test_a_payload_of_another_size_is_refused(frame: np.ndarray, codec: Codec) -> None:
    with pytest.raises(IntegrityError, match="expected"):
        decode_frame(encode_frame(frame, codec), codec, out=np.empty(math.prod(frame.shape) + 1, np.float32))


@given(payload=st.binary(max_size=200))
def test_any_bytes_are_refused_or_fill_the_frame(payload: bytes) -> None:
    out = np.empty(8, np.float32)
    try:
        decode_frame(payload, "blosc-lz4", out=out)
    except IntegrityError:
        return
    assert int.from_bytes(payload[4:8], "little") == out.nbytes


@given(left=st.binary(), right=st.binary())
def test_checksums_extend(left: bytes, right: bytes) -> None:
    assert extend_checksum(checksum(left), right) == checksum(left + right)
    both = checksum_and_extend(checksum(left), np.frombuffer(right, np.uint8))
    assert both == (checksum(right), checksum(left + right))
    assert joined_checksum(checksum(left), checksum(right), len(right)) == checksum(left + right)


def test_two_checksums_at_once_are_those_of_each_alone() -> None:
    data = np.random.default_rng(0).integers(0, 256, 2 * JOIN_BYTES + 5, np.uint8)
    crc32c = checksum(data[:9])
    for part in (data[9 : JOIN_BYTES + 8], data[9 : JOIN_BYTES + 9], data[9:]):
        assert checksum_and_extend(crc32c, part) == (checksum(part), extend_checksum(crc32c, part.data))


@given(data=st.binary(min_size=1), bit=st.integers(0))
def test_a_flipped_bit_changes_the_checksum(data: bytes, bit: int) -> None:
    flipped = bytearray(data)
    flipped[bit // 8 % len(data)] ^= 1 << bit % 8
    assert checksum(flipped) != checksum(data)
