"""Windows from a local disk by our source and by its peers, in one run.

    python -m tests.benchmarks.test_stream_peers        windows of 8 frames, 256x256, 4 channels; takes 1 GB of disk

Readers take turns, in one thread each where they have a choice, so that all meet the same machine; the table has
medians over the rounds. Of the peers, zarr-python and tensorstore check what they read, as we do but where it says
unchecked. As an ordinary test it runs once, small, with those peers that the main environment has, checks that all read
the same values, and asserts no time.
"""

import io
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.__main__ import main as data_prep
from tests.benchmarks.peer_readers import FRAMES, Read, facts_of, open_reader, timed
from tests.benchmarks.peers_environment import peers_python
from tests.integration.own_environment import EnvironmentMissingError
from tests.integration.the_well_environment import the_well_python
from tests.unit.converting import stored_frames
from tests.unit.tiny_well import TinyField, write_file
from trainer.data.dataset import open_dataset
from trainer.data.ring import Ring, Scratch
from trainer.data.source import Source, Verification
from trainer.data.windows import Window

PROGRAM = Path(__file__).with_name("peer_readers.py")
FIELDS = (TinyField("density"), TinyField("pressure"), TinyField("velocity", rank=1))
CODECS = ("none", "blosc-lz4", "blosc-zstd")

Take = Callable[[int, int], Mapping[str, float]]
"""(first, count) -> what `timed` says of so many windows."""


@dataclass(frozen=True)
class Rate:
    """Medians over the rounds."""

    name: str
    megabytes_per_second: float
    cpu_seconds_per_gigabyte: float


def make(folder: Path, *, size: int, steps: int, trajectories: int) -> None:
    """The same frames as HDF5, zarr, tar and one flat file."""
    write_file(
        folder / "well" / "data" / "train" / "a.hdf5",
        num_trajectories=trajectories,
        num_steps=steps,
        axes={"x": size, "y": size},
        fields=FIELDS,
        edit=_make_smooth,
    )
    for codec in CODECS:
        _convert(folder, f"zarr-{codec}", "zarr", "--codec", codec)
    _convert(folder, "tar", "webdataset")
    frames = np.stack(list(stored_frames(folder / "zarr-none").values()))
    frames.tofile(folder / "decoded")
    facts = {"trajectories": trajectories, "steps": steps, "frame": frames.shape[2:]}
    (folder / "facts.json").write_text(json.dumps(facts))


def _convert(folder: Path, name: str, layout: str, *options: str) -> None:
    with redirect_stdout(io.StringIO()):
        assert data_prep(["convert", str(folder / "well"), str(folder / name), "--format", layout, *options]) == 0


def _make_smooth(file: h5py.File) -> None:
    """A spectrum as of turbulence, moving: noise would not compress at all."""
    random = np.random.default_rng(0)
    for group in ("t0_fields", "t1_fields"):
        for values in file[group].values():
            shape = values.shape
            fixed, moving = (_turbulence(random, shape[2], (shape[0], *shape[4:])) for _ in range(2))
            for step in range(shape[1]):
                values[:, step] = 3 + fixed + np.roll(moving, step, axis=1)


def _turbulence(random: np.random.Generator, size: int, others: tuple[int, ...]) -> np.ndarray:
    """(trajectory, x, y, component) or without the last, of std 1."""
    wavenumber = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    spectrum = np.fft.rfft2(random.standard_normal((*others, size, size))) * np.maximum(wavenumber, 1) ** (-4 / 3)
    fields = np.fft.irfft2(spectrum, s=(size, size))
    return np.moveaxis(fields / fields.std(), (-2, -1), (1, 2)).astype(np.float32)


def ours(folder: Path, *, name: str = "zarr-none", verify: Verification = "always") -> Read:
    """Into one buffer that is used again."""
    facts, source = facts_of(folder), Source(open_dataset(str(folder / name)), frames=FRAMES, verify=verify)
    shape = source.dataset.window_shape(FRAMES)
    out, scratch = Ring(1, shapes=[shape], pin=False).acquire().view(shape).numpy(), Scratch()

    def read(number: int) -> np.ndarray:
        trajectory, start = facts.place(number)
        source.read(Window(trajectory, start), out=out, scratch=scratch)
        return out

    return read


def in_process(read: Read) -> Take:
    return lambda first, count: timed(read, first, count)


@contextmanager
def served(python: Path, name: str, folder: Path) -> Iterator[Take]:
    """The reader of this name in a process of its own."""
    command = [str(python), str(PROGRAM), name, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def take(first: int, count: int) -> Mapping[str, float]:
            print(first, count, file=process.stdin, flush=True)
            line = process.stdout.readline()
            assert line, f"{name} ended"
            found: dict[str, float] = json.loads(line)
            return found

        try:
            yield take
        finally:
            process.stdin.close()


def measure(
    readers: Mapping[str, Take], *, rounds: int, windows: int, window_bytes: int, settle_seconds: float = 0.0
) -> list[Rate]:
    """All readers in turn, round after round, the first to warm up; before each turn what reads ahead may settle."""
    taken: dict[str, list[Mapping[str, float]]] = {name: [] for name in readers}
    for number in range(rounds + 1):
        for name, take in readers.items():
            time.sleep(settle_seconds)
            taken[name].append(take(number * windows, windows))
    gigabytes = windows * window_bytes / 1e9
    return [
        Rate(
            name,
            1000 * gigabytes / statistics.median(one["seconds"] for one in found[1:]),
            statistics.median(one["cpu_seconds"] for one in found[1:]) / gigabytes,
        )
        for name, found in taken.items()
    ]


# --------------------------------------------------------------------------------------------------------- the report


def table(rates: Sequence[Rate], *, limit: str) -> str:
    """For people: each beside the one that is named `limit`."""
    most = next(rate.megabytes_per_second for rate in rates if rate.name == limit)
    lines = [f"{'reader':30}{'MB/s':>10}{'of ' + limit:>20}{'CPU s/GB':>10}"]
    for rate in rates:
        share = rate.megabytes_per_second / most
        lines.append(
            f"{rate.name:30}{rate.megabytes_per_second:10.0f}{share:20.3f}{rate.cpu_seconds_per_gigabyte:10.3f}"
        )
    return "\n".join(lines)


def everyone(folder: Path, stack: ExitStack) -> dict[str, Take]:
    """Every reader that can be had, ours first. Names those that cannot."""
    main_python = Path(sys.executable)
    readers = {f"ours {codec}": in_process(ours(folder, name=f"zarr-{codec}")) for codec in CODECS}
    readers["ours tar"] = in_process(ours(folder, name="tar"))
    readers["ours none, unchecked"] = in_process(ours(folder, verify="never"))
    pythons: dict[str, Callable[[], Path]] = {name: lambda: main_python for name in ("memory map", "webdataset")}
    pythons |= dict.fromkeys(("litdata windows", "litdata items", "mosaicml"), peers_python)
    pythons |= {f"zarr-python {codec}": lambda: main_python for codec in CODECS}
    pythons |= {f"{name} {codec}": peers_python for name in ("zarrs", "tensorstore") for codec in CODECS}
    pythons["the-well"] = the_well_python
    for name, python in pythons.items():
        try:
            readers[name] = stack.enter_context(served(python(), name, folder))
        except EnvironmentMissingError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
    return readers


def write_peers_formats(folder: Path) -> None:
    for name in ("litdata", "mosaicml"):
        command = [str(peers_python()), str(PROGRAM), "--write", name, str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(folder: Path, *, size: int, steps: int, rounds: int, windows: int) -> None:
    """The whole benchmark."""
    make(folder, size=size, steps=steps, trajectories=3)
    try:
        write_peers_formats(folder)
    except EnvironmentMissingError as error:
        print(error, file=sys.stderr)
    window_bytes = FRAMES * 4 * math.prod(facts_of(folder).frame)
    with ExitStack() as stack:
        readers = everyone(folder, stack)
        first = {name: take(0, 1)["sum"] for name, take in readers.items()}
        assert np.ptp(list(first.values())) < 1e-6 * abs(first["memory map"]), f"other values were read: {first}"
        rates = measure(readers, rounds=rounds, windows=windows, window_bytes=window_bytes)
    print(table(rates, limit="memory map"))


# ----------------------------------------------------------------------------------------------------------- the tests

SMALL_READERS = ("memory map", "zarr-python none", "zarr-python blosc-lz4", "zarr-python blosc-zstd", "webdataset")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    make(folder, size=16, steps=17, trajectories=2)
    return folder


def is_of_sense(rates: Sequence[Rate]) -> bool:
    values = [value for rate in rates for value in (rate.megabytes_per_second, rate.cpu_seconds_per_gigabyte)]
    return all(math.isfinite(value) and value > 0 for value in values)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_readers_of_this_environment_read_the_same_windows(small: Path) -> None:
    """webdataset leaves its streams to the garbage collector, hence the warnings."""
    readers = {name: in_process(open_reader(name, small)) for name in SMALL_READERS}
    readers |= {name: in_process(ours(small, name=name)) for name in ("tar", *(f"zarr-{codec}" for codec in CODECS))}
    frames = facts_of(small).frames(small)
    for name, take in readers.items():
        assert take(0, 1)["sum"] == pytest.approx(float(frames[0, :FRAMES].sum(dtype=np.float64))), name
    random_access = [name for name in readers if name != "webdataset"]
    for number in range(5):
        assert len({round(readers[name](number, 1)["sum"], 6) for name in random_access}) == 1
    assert is_of_sense(measure(readers, rounds=1, windows=2, window_bytes=frames[0, :FRAMES].nbytes))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        run(Path(scratch), size=256, steps=41, rounds=9, windows=24)
