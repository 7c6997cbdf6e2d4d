"""Writes one rank's share of a snapshot as safetensors files of bounded size."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save
from torch import Tensor

from data_prep.contract.checksum import checksum
from data_prep.contract.errors import IntegrityError, RefusedError, StorageError
from data_prep.contract.storage import Storage

FILE_BYTES = 2**28
"""A file is closed when it has this many: what a rank holds in memory, twice, while it writes."""

STORAGE_ERRORS = (OSError, StorageError, RefusedError, IntegrityError)

Entries = dict[str, dict[str, dict[str, Any]]]
"""Name -> state -> fields of a TensorRecord, as JSON."""


class ShardWriter:
    """Takes entries until `finish`. An error of storage is kept until then, since entries are gathered by all ranks
    together and none may leave early."""

    def __init__(self, storage: Storage, *, rank: int, file_bytes: int = FILE_BYTES) -> None:
        """`storage`: the snapshot's folder."""
        self._storage, self._rank, self._file_bytes = storage, rank, file_bytes
        self._pending: dict[str, dict[str, Tensor]] = {}
        self._files: list[dict[str, Any]] = []
        self._entries: Entries = {}
        self._error: Exception | None = None

    def add(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if self._error is not None:
            return
        self._pending[name] = dict(tensors)
        if sum(tensor.nbytes for entry in self._pending.values() for tensor in entry.values()) >= self._file_bytes:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """`files` and `entries` of the manifest, with this rank's own file numbers. Raises what storage raised."""
        if self._pending:
            self._flush()
        if self._error is not None:
            raise self._error
        return {"files": self._files, "entries": self._entries}

    def _flush(self) -> None:
        flat = {f"{name}/{state}": tensor for name, entry in self._pending.items() for state, tensor in entry.items()}
        data = save(flat)
        path = f"rank-{self._rank:05d}-{len(self._files):05d}.safetensors"
        for label, record in _records(data, file=len(self._files)).items():
            name, _, state = label.rpartition("/")
            self._entries.setdefault(name, {})[state] = record
        self._files.append({"path": path, "bytes": len(data)})
        self._pending = {}
        try:
            self._storage.put(path, data)
        except STORAGE_ERRORS as error:
            self._error = error


def _records(data: bytes, *, file: int) -> dict[str, dict[str, Any]]:
    """Where each tensor of a safetensors file lies: 8 bytes of header length, the header as JSON, the tensors."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    view = memoryview(data)[begin:]
    return {
        label: {
            "file": file,
            "offset": begin + item["data_offsets"][0],
            "bytes": item["data_offsets"][1] - item["data_offsets"][0],
            "dtype": item["dtype"],
            "shape": item["shape"],
            "crc32c": checksum(view[slice(*item["data_offsets"])]),
        }
        for label, item in header.items()
    }
