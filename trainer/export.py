"""A snapshot's weights alone, for others: plain safetensors, the run's config, and a manifest.

What `pretrained.load_tokeniser` and `load_dynamics` read; `evaluate` and `stage.start_from` take it too, since to them
it is a snapshot without optimiser states. Any other program reads the safetensors by parameter name.
"""

from collections.abc import Iterator

from safetensors.torch import save
from torch import Tensor

from data_prep.contract.storage import Storage
from trainer.errors import RefusedError
from trainer.snapshot import Snapshot, open_snapshot
from trainer.snapshot.manifest import MANIFEST, FileRecord, Manifest, TensorRecord
from trainer.snapshot.shards import tensor_records

FILE_BYTES = 4 * 2**30
"""A file is closed when it has this many; most models fit into one."""
CONFIG = "config.yaml"


def export(url: str, destination: str, *, average: bool = False, file_bytes: int = FILE_BYTES) -> str:
    """Writes the weights of the snapshot (or newest one of a run) at `url`; the manifest last.

    `average`: the moving average in place of the last weights. Returns a sentence. Raises RefusedError for what is no
    snapshot, or a destination that holds something.
    """
    snapshot, storage = open_snapshot(url), Storage(destination)
    storage.refuse_unwritable(cure="name a folder to write to")
    if storage.list():
        raise RefusedError(f"{destination} is not empty; name a new folder")
    files: list[FileRecord] = []
    entries: dict[str, dict[str, TensorRecord]] = {}
    for tensors in _portions(snapshot, average=average, file_bytes=file_bytes):
        path, data = f"model-{len(files):05d}.safetensors", save(tensors)
        for name, record in tensor_records(data, file=len(files)).items():
            entries[name] = {"weight": TensorRecord.model_validate({**record, "shape": tuple(record["shape"])})}
        storage.put(path, data)
        files.append(FileRecord(path=path, bytes=len(data)))
    state, about = snapshot.state, snapshot.about
    manifest = Manifest(
        step=state.step,
        samples_seen=state.samples_seen,
        is_export=True,
        about=about,
        scores=snapshot.scores,
        files=tuple(files),
        entries=entries,
    )
    storage.put(CONFIG, about.config.encode())
    storage.put(MANIFEST, manifest.model_dump_json().encode())
    kind = "averaged weights" if average else "weights"
    return f"{destination}: {kind} of step {state.step} of {snapshot.url}, {len(entries)} tensors"


def _portions(snapshot: Snapshot, *, average: bool, file_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The weights by name, as many at a time as make a file."""
    taken: dict[str, Tensor] = {}
    for name in sorted(snapshot.names):
        taken[name] = snapshot.weight(name, average=average)
        if sum(tensor.nbytes for tensor in taken.values()) >= file_bytes:
            yield taken
            taken = {}
    if taken:
        yield taken
