"""The byte index is checked row by row, before any of it is used."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.manifest import INDEX_DTYPE, encode_index, load_manifest
from data_prep.contract.storage import Storage
from tests.unit.tiny_manifest import FRAME_BYTES, make_index, rewrite, saved


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return saved(tmp_path)


def replace_index(storage: Storage, data: bytes) -> None:
    """An index that the manifest vouches for."""
    storage.put("index.npy", data)
    rewrite(storage, lambda stored: stored["index"].update(bytes=len(data), crc32c=checksum(data)))


def test_a_missing_index_is_named(storage: Storage) -> None:
    storage.delete("index.npy")
    with pytest.raises(NotFoundError, match=r"index\.npy: no such object"):
        load_manifest(storage)


def test_a_damaged_index_is_refused(storage: Storage) -> None:
    data = bytearray(storage.get("index.npy", max_bytes=10**6))
    data[-1] ^= 1
    storage.put("index.npy", data)
    with pytest.raises(RefusedError, match=r"index\.npy: .* not of this manifest, or damaged"):
        load_manifest(storage)


def header_of(shape: tuple[int, ...], dtype: Any = INDEX_DTYPE) -> bytes:
    stream = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


ROWS = make_index().tobytes()
BAD_INDEX = {
    "no array file": b"hello",
    "too few rows": encode_index(make_index()[:-1]),
    "another type": header_of((6,), "f8") + bytes(48),
    "a shape that would not fit into memory": header_of((10**14,)) + ROWS,
    "a negative shape": header_of((-6,)) + ROWS,
    "two axes": header_of((6, 1)) + ROWS,
    "a row cut short": header_of((6,)) + ROWS[:-1],
    "pickled objects": header_of((6,), "O") + ROWS,
}


@pytest.mark.parametrize("data", BAD_INDEX.values(), ids=BAD_INDEX)
def test_an_index_of_another_shape_or_type_is_refused(storage: Storage, data: bytes) -> None:
    replace_index(storage, data)
    with pytest.raises(RefusedError, match=r"index\.npy: "):
        load_manifest(storage)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shard", 1, "row 4 points at a shard, but there are only 1 shards"),
        ("offset", 6 * FRAME_BYTES - 1, "row 4 reaches beyond the end of its shard"),
        ("offset", 2**64 - 1, "row 4 reaches beyond the end of its shard"),
        ("bytes", 6 * FRAME_BYTES, "row 4 reaches beyond the end of its shard"),
        ("bytes", 2 * FRAME_BYTES, "row 4 has a payload of more bytes than its record can take"),
        ("bytes", FRAME_BYTES - 1, "row 4 has a payload of too few bytes for its record, by the codec none"),
    ],
)
def test_a_row_that_points_astray_is_refused(storage: Storage, column: str, value: int, message: str) -> None:
    index = make_index()
    index[column][4] = value
    replace_index(storage, encode_index(index))
    with pytest.raises(RefusedError) as refused:
        load_manifest(storage)
    assert message in str(refused.value)
