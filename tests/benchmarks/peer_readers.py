"""Windows by other people's readers, each as its documentation says. It runs where their packages are, without ours.

python peer_readers.py NAME FOLDER      then for each line `FIRST COUNT` on stdin a line of JSON on stdout: the seconds
                                        that so many windows took, and the sum of the values of the last one
python peer_readers.py --write NAME FOLDER      stores the frames of FOLDER/decoded in the format of that package

A reader takes the number of a window. Number 0 is the first window of the first trajectory for all of them; where any
window can be read, the others lie at random places.
"""

import itertools
import json
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FRAMES = 8
Read = Callable[[int], object]
"""Gives the window as arrays, in memory of its own."""


@dataclass(frozen=True)
class Facts:
    """Of the data in a folder."""

    trajectories: int
    steps: int
    frame: tuple[int, ...]
    """(channel, *space)."""

    def place(self, number: int) -> tuple[int, int]:
        """(trajectory, first frame) of a window."""
        mixed = number * 2654435761 % 2**32
        return mixed % self.trajectories, (mixed >> 8) % (self.steps - FRAMES + 1)

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Windows that do not overlap, for formats that must be cut beforehand."""
        starts = range(0, self.steps - FRAMES + 1, FRAMES)
        return list(itertools.product(range(self.trajectories), starts))

    def frames(self, folder: Path) -> np.ndarray:
        """(trajectory, time, channel, *space), mapped."""
        shape = (self.trajectories, self.steps, *self.frame)
        return np.memmap(folder / "decoded", np.float32, "r", shape=shape)


def facts_of(folder: Path) -> Facts:
    found = json.loads((folder / "facts.json").read_text())
    return Facts(found["trajectories"], found["steps"], tuple(found["frame"]))


# ------------------------------------------------------------------------------------------------------- the readers


def memory_map(folder: Path) -> Read:
    """Copies from a memory map into one buffer that is used again: what nobody can beat."""
    facts = facts_of(folder)
    frames, buffer = facts.frames(folder), np.empty((FRAMES, *facts.frame), np.float32)

    def read(number: int) -> np.ndarray:
        trajectory, start = facts.place(number)
        np.copyto(buffer, frames[trajectory, start : start + FRAMES])
        return buffer

    return read


def zarr_python(folder: Path, *, codec: str = "none") -> Read:
    import zarr

    facts, array = facts_of(folder), zarr.open_group(folder / f"zarr-{codec}", mode="r")["train/fields"]

    def read(number: int) -> object:
        trajectory, start = facts.place(number)
        return array[trajectory, start : start + FRAMES]

    return read


def zarrs(folder: Path, *, codec: str = "none") -> Read:
    import zarr
    import zarrs  # noqa: F401

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return zarr_python(folder, codec=codec)


def tensorstore(folder: Path, *, codec: str = "none") -> Read:
    import tensorstore

    facts, path = facts_of(folder), folder / f"zarr-{codec}" / "train" / "fields"
    array = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}).result()

    def read(number: int) -> object:
        trajectory, start = facts.place(number)
        return array[trajectory, start : start + FRAMES].read().result()

    return read


def webdataset(folder: Path) -> Read:
    """One after the other, as it streams; a sample is a stretch of frames, decoded whole."""
    import webdataset

    shards = [str(path) for path in sorted((folder / "tar").glob("*.tar"))]

    def windows() -> Iterator[np.ndarray]:
        while True:
            for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():
                frames = sample["fields.npy"]
                for start in range(0, len(frames) - FRAMES + 1, FRAMES):
                    yield frames[start : start + FRAMES]

    stream = windows()
    return lambda number: next(stream)


def the_well(folder: Path) -> Read:
    from the_well.data.datasets import WellDataset

    half = FRAMES // 2
    facts = facts_of(folder)
    dataset = WellDataset(
        path=str(folder / "well"), well_split_name="train", n_steps_input=half, n_steps_output=FRAMES - half
    )

    def read(number: int) -> object:
        trajectory, start = facts.place(number)
        sample = dataset[trajectory * (facts.steps - FRAMES + 1) + start]
        return sample["input_fields"], sample["output_fields"]

    return read


def litdata_windows(folder: Path) -> Read:
    import litdata

    loader = litdata.TemporalArrayLoader()
    facts, dataset = facts_of(folder), litdata.StreamingDataset(str(folder / "litdata-windows"), item_loader=loader)

    def read(number: int) -> object:
        trajectory, start = facts.place(number)
        return dataset.read_window(trajectory, start=start, frames=FRAMES)["frames"]

    return read


def litdata_items(folder: Path) -> Read:
    import litdata

    dataset, pieces = litdata.StreamingDataset(str(folder / "litdata-items")), facts_of(folder).pieces
    return lambda number: dataset[number * 2654435761 % len(pieces)]["frames"]


def mosaicml(folder: Path) -> Read:
    _stand_in_for_what_reading_arrays_does_not_need()
    from streaming import StreamingDataset

    dataset, pieces = StreamingDataset(local=str(folder / "mosaicml"), batch_size=1), facts_of(folder).pieces
    return lambda number: dataset[number * 2654435761 % len(pieces)]["frames"]


READERS: dict[str, Callable[[Path], Read]] = {
    "memory map": memory_map,
    "zarr-python": zarr_python,
    "zarrs": zarrs,
    "tensorstore": tensorstore,
    "webdataset": webdataset,
    "the-well": the_well,
    "litdata windows": litdata_windows,
    "litdata items": litdata_items,
    "mosaicml": mosaicml,
}


def open_reader(name: str, folder: Path) -> Read:
    """`zarrs blosc-lz4` reads the array of that codec."""
    if name in READERS:
        return READERS[name](folder)
    library, _, codec = name.rpartition(" ")
    return {"zarr-python": zarr_python, "zarrs": zarrs, "tensorstore": tensorstore}[library](folder, codec=codec)


# ------------------------------------------------------------------------------------------------------- the writers


def write_litdata(folder: Path) -> None:
    """Whole trajectories for windows, and windows cut beforehand."""
    import litdata

    facts = facts_of(folder)
    litdata.optimize(
        fn=_Trajectory(folder),
        inputs=list(range(facts.trajectories)),
        output_dir=str(folder / "litdata-windows"),
        chunk_bytes="64MB",
        num_workers=1,
        item_loader=litdata.TemporalArrayLoader(),
    )
    litdata.optimize(
        fn=_Piece(folder),
        inputs=facts.pieces,
        output_dir=str(folder / "litdata-items"),
        chunk_bytes="64MB",
        num_workers=1,
    )


def write_mosaicml(folder: Path) -> None:
    _stand_in_for_what_reading_arrays_does_not_need()
    from streaming import MDSWriter

    facts = facts_of(folder)
    sizes = ",".join(map(str, (FRAMES, *facts.frame)))
    with MDSWriter(out=str(folder / "mosaicml"), columns={"frames": f"ndarray:float32:{sizes}"}) as writer:
        for piece in facts.pieces:
            writer.write(_Piece(folder)(piece))


@dataclass(frozen=True)
class _Trajectory:
    folder: Path

    def __call__(self, trajectory: int) -> dict[str, np.ndarray]:
        return {"frames": np.array(facts_of(self.folder).frames(self.folder)[trajectory])}


@dataclass(frozen=True)
class _Piece:
    folder: Path

    def __call__(self, piece: tuple[int, int]) -> dict[str, np.ndarray]:
        trajectory, start = piece
        return {"frames": np.array(facts_of(self.folder).frames(self.folder)[trajectory, start : start + FRAMES])}


WRITERS = {"litdata": write_litdata, "mosaicml": write_mosaicml}


def _stand_in_for_what_reading_arrays_does_not_need() -> None:
    """`streaming` imports these at its top for text and pictures; the packages weigh gigabytes."""

    def attribute(name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})

    transformers = ("feature_extraction_utils", "tokenization_utils_base", "models", "models.auto")
    torchvision = ("datasets", "transforms", "transforms.functional")
    names = ["transformers", "torchvision", "transformers.models.auto.tokenization_auto"]
    names += [f"transformers.{name}" for name in transformers] + [f"torchvision.{name}" for name in torchvision]
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = []
        module.__dict__["__getattr__"] = attribute
        sys.modules[name] = module


# ------------------------------------------------------------------------------------------------------- the protocol


def timed(read: Read, first: int, count: int) -> dict[str, float]:
    """Wall and processor seconds of so many windows, and the sum of the last one's values."""
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(first, first + count):
        window = read(number)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    parts = window if isinstance(window, tuple) else (window,)
    total = sum(float(np.asarray(part).sum(dtype=np.float64)) for part in parts)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "sum": total}


def serve(name: str, folder: Path) -> None:
    read = open_reader(name, folder)
    for line in sys.stdin:
        first, count = map(int, line.split())
        print(json.dumps(timed(read, first, count)), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "--write":
        WRITERS[sys.argv[2]](Path(sys.argv[3]))
    else:
        serve(sys.argv[1], Path(sys.argv[2]))
