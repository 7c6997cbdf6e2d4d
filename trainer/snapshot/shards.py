"""Writes one rank's share of a snapshot as safetensors files of bounded size. Runs in a thread beside training."""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import IntegrityError, RefusedError, StorageError
from data_prep.contract.storage import Storage

FILE_BYTES = 2**26
"""A file is closed when it has this many. Serialising holds the interpreter lock, for 10 ms at this size."""

STORAGE_ERRORS = (OSError, StorageError, RefusedError, IntegrityError)

LENGTH_BYTES = 8
"""In which a safetensors file says how long its header is."""


class Place(NamedTuple):
    """Where one tensor lies in its file."""

    offset: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]


Share = deque[tuple[str, dict[str, Tensor]]]
"""Parameter or buffer names with their tensors, on the CPU, which nobody else changes."""


def write_share(storage: Storage, share: Share, *, rank: int, file_bytes: int = FILE_BYTES) -> dict[str, Any]:
    """Writes the share and empties it, so that memory goes as files come. `storage`: the snapshot's folder.

    Returns `files` and `entries` of the manifest, with this rank's own file numbers. Raises what storage raises.
    """
    files: list[dict[str, Any]] = []
    entries: dict[str, dict[str, dict[str, Any]]] = {}
    while share:
        path = f"rank-{rank:05d}-{len(files):05d}.safetensors"
        data = save(_take(share, file_bytes))
        for label, record in tensor_records(data, file=len(files)).items():
            name, _, state = label.rpartition("/")
            entries.setdefault(name, {})[state] = record
        storage.put(path, data)
        files.append({"path": path, "bytes": len(data)})
    return {"files": files, "entries": entries}


def _take(share: Share, file_bytes: int) -> dict[str, Tensor]:
    """As many entries as make a file, at least one; labelled NAME/STATE."""
    taken: dict[str, Tensor] = {}
    while share and num_bytes(taken) < file_bytes:
        name, tensors = share.popleft()
        taken |= {f"{name}/{state}": tensor for state, tensor in tensors.items()}
    return taken


def is_finite(value: Tensor) -> bool:
    """Whether all of it is. Its extremes tell, and need no memory of its size."""
    if not value.is_floating_point() or not value.numel():
        return True
    return bool(torch.stack(value.aminmax()).isfinite().all())


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Of all of them together."""
    return sum(tensor.nbytes for tensor in tensors.values())


def tensor_records(data: bytes, *, file: int) -> dict[str, dict[str, Any]]:
    """Label -> fields of a TensorRecord: where each tensor of a safetensors file lies.

    The format: the header's length, the header as JSON, the tensors.
    """
    begin = first_byte(data)
    view = memoryview(data)
    return {
        label: {
            "file": file,
            "offset": place.offset,
            "bytes": place.bytes,
            "dtype": place.dtype,
            "shape": place.shape,
            "crc32c": checksum(view[place.offset : place.offset + place.bytes]),
        }
        for label, place in places_of(data[LENGTH_BYTES:begin], begin=begin).items()
    }


def first_byte(data: bytes) -> int:
    """Where the tensors of a safetensors file begin, by its first bytes."""
    return LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")


def places_of(header: bytes, *, begin: int) -> dict[str, Place]:
    """Label -> place, by a header behind which the tensors begin. Raises ValueError, LookupError, TypeError or
    AttributeError for one that is none."""
    items: dict[str, Any] = json.loads(header)
    items.pop("__metadata__", None)
    return {
        label: Place(
            begin + item["data_offsets"][0],
            item["data_offsets"][1] - item["data_offsets"][0],
            item["dtype"],
            tuple(item["shape"]),
        )
        for label, item in items.items()
    }
