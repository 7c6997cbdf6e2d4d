"""Destinations and prepared datasets that are not as they should be: each refused by its own message, nothing changed.

What may be wrong with a source stands in test_well_malformed.py, test_corpus.py and test_xarray_corpus.py.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from tests.unit.converting import SMALL, contents, convert
from tests.unit.tiny_well import write_dataset

CONVERT, VERIFY = ("convert", "tiny", "out", "--format", "zarr"), ("verify", "out")
AGAIN = "convert its source again into an empty folder"
Break = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """How a workplace with the corpus `tiny` and the finished conversion `out` is broken, and what is said of it."""

    breaks: Break
    where: str
    found: str
    cure: str
    arguments: tuple[str, ...] = VERIFY


def nothing(place: Path) -> None:
    """The arguments alone are wrong."""


def manifest(change: Callable[[dict], object]) -> Break:
    def edit(place: Path) -> None:
        path = place / "out" / "manifest.json"
        stored = json.loads(path.read_text())
        change(stored)
        path.write_text(json.dumps(stored))

    return edit


def text(name: str, content: str | bytes) -> Break:
    def edit(place: Path) -> None:
        (place / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def removed(name: str) -> Break:
    return lambda place: (place / name).unlink()


def cut(name: str) -> Break:
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:-1])


def emptied(place: Path) -> None:
    shutil.rmtree(place / "out")


def foreign(place: Path) -> None:
    emptied(place)
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("mine")


def a_file(place: Path) -> None:
    emptied(place)
    (place / "out").write_text("mine")


def astray(place: Path) -> None:
    """A row that points behind the end of its shard, in an index whose checksum the manifest knows."""
    from data_prep.contract.manifest import describe_index, encode_index

    path = place / "out" / "index.npy"
    index = np.load(path)
    index["offset"][3] = 2**40
    path.write_bytes(encode_index(index))
    manifest(lambda stored: stored.update(index=describe_index(index).model_dump()))(place)


def journal(plan: str) -> Break:
    """A conversion that is not finished, whose note of what is being done is this."""

    def edit(place: Path) -> None:
        (place / "out" / "manifest.json").unlink()
        (place / "out" / ".progress").mkdir()
        (place / "out" / ".progress" / "plan.json").write_text(plan)

    return edit


def enlarged(place: Path) -> None:
    """A manifest that says of each axis that it has ten thousand points."""

    def enlarge(stored: dict) -> None:
        axis = [number / 10**4 for number in range(10**4)]
        stored["dataset"].update(resolution=[10**4, 10**4], coordinates=[axis, axis])

    manifest(enlarge)(place)


def first_shard(place: Path) -> Path:
    return place / "out" / "train" / "fields" / "c" / "0" / "0" / "0" / "0" / "0"


CASES = {
    "a place that is a file": Case(a_file, "out", "is a file", "give an empty folder", CONVERT),
    "a folder of somebody else": Case(foreign, "out", "`thesis.tex` is there", "give an empty folder", CONVERT),
    "the source itself": Case(
        nothing,
        "tiny",
        "is the source itself",
        "give another destination",
        ("convert", "tiny", "tiny", "--format", "zarr"),
    ),
    "a place in the source": Case(
        nothing,
        "tiny/out",
        "lies inside the source",
        "another destination",
        ("convert", "tiny", "tiny/out", "--format", "zarr"),
    ),
    "a place around the source": Case(
        nothing,
        ".",
        "the source tiny lies inside it",
        "another destination",
        ("convert", "tiny", ".", "--format", "zarr"),
    ),
    "a place in a dataset": Case(
        nothing,
        "out/more",
        "lies inside the prepared dataset",
        "another destination",
        ("convert", "tiny", "out/more", "--format", "zarr"),
    ),
    "another conversion": Case(
        nothing,
        "out/manifest.json",
        "is of another conversion (`codec` differs)",
        "`--overwrite`",
        (*CONVERT, "--codec", "none"),
    ),
    "an unknown scheme": Case(
        nothing, "gopher://x", "unknown scheme", "known are", ("convert", "tiny", "gopher://x", "--format", "zarr")
    ),
    "compressed tars": Case(
        nothing,
        "--codec blosc-lz4",
        "plain .npy members",
        "leave --codec away",
        ("convert", "tiny", "new", "--format", "webdataset", "--codec", "blosc-lz4"),
    ),
    "overwriting by parts": Case(
        nothing,
        "--overwrite",
        "would remove what the other parts make",
        "give an empty destination",
        (*CONVERT, "--overwrite", "--part", "0/2"),
    ),
    "nothing to finish": Case(emptied, "out", "no conversion has begun here", "begin one with", ("finish", "out")),
    "a shard that is gone": Case(
        lambda place: first_shard(place).unlink(),
        "out/train/fields/c/0/0/0/0/0",
        "no such object",
        "`--overwrite`",
        CONVERT,
    ),
    "a shard that is cut short": Case(
        lambda place: first_shard(place).write_bytes(first_shard(place).read_bytes()[:-1]),
        "out/train/fields/c/0/0/0/0/0",
        "but the manifest says",
        "`--overwrite`",
        CONVERT,
    ),
    "no manifest": Case(removed("out/manifest.json"), "out", "has no manifest.json", "convert"),
    "a manifest that is no JSON": Case(text("out/manifest.json", "hello"), "out/manifest.json", "is no JSON", AGAIN),
    "a manifest that is cut short": Case(cut("out/manifest.json"), "out/manifest.json", "is no JSON", AGAIN),
    "a manifest that is nested without end": Case(
        text("out/manifest.json", "[" * 10**5), "out/manifest.json", "is no JSON (recursion limit", AGAIN
    ),
    "a journal that is nested without end": Case(
        journal("[" * 10**5), "out", "no conversion has begun here", "begin one with", ("finish", "out")
    ),
    "frames that no shard can hold": Case(
        enlarged, "out/index.npy: row 0", "has a payload of too few bytes for its record", AGAIN
    ),
    "an unknown version": Case(
        manifest(lambda stored: stored.update(version=7)), "out/manifest.json: version is 7", "expected 1", AGAIN
    ),
    "an unknown key": Case(
        manifest(lambda stored: stored.update(colour=1)),
        "out/manifest.json: colour",
        "is no key of Manifest",
        AGAIN,
    ),
    "a missing key": Case(
        manifest(lambda stored: stored.pop("codec")), "out/manifest.json: codec is missing", "Manifest needs", AGAIN
    ),
    "an unknown codec": Case(
        manifest(lambda stored: stored.update(codec="rar")), 'codec is "rar"', "expected 'none'", AGAIN
    ),
    "a path that leaves the folder": Case(
        manifest(lambda stored: stored["shards"][0].update(path="../../etc/passwd")),
        "out/manifest.json: shards.0.path",
        "a relative path of letters",
        AGAIN,
    ),
    "a negative size": Case(
        manifest(lambda stored: stored["shards"][0].update(bytes=-1)),
        "shards.0.bytes",
        "greater than or equal to 0",
        AGAIN,
    ),
    "two shards of one path": Case(
        manifest(lambda stored: stored["shards"][1].update(path=stored["shards"][0]["path"])),
        "out/manifest.json",
        "two shards have the same path",
        AGAIN,
    ),
    "records that overlap": Case(
        manifest(lambda stored: stored["trajectories"][1].update(first_record=0)),
        "out/manifest.json",
        "trajectories.1.first_record is 0, expected 5",
        AGAIN,
    ),
    "times that are too few": Case(
        manifest(lambda stored: stored["trajectories"][0]["times"].pop()),
        "trajectories.0",
        "4 times, but num_steps is 5",
        AGAIN,
    ),
    "statistics of other channels": Case(
        manifest(lambda stored: stored["statistics"].pop("pressure")), "out/manifest.json", "statistics are of", AGAIN
    ),
    "a statistic that is infinite": Case(
        manifest(lambda stored: stored["statistics"]["pressure"].update(std=float("inf"))),
        "out/manifest.json",
        "statistics.pressure.std",
        AGAIN,
    ),
    "axes that do not agree": Case(
        manifest(lambda stored: stored["dataset"]["resolution"].append(9)),
        "out/manifest.json: dataset",
        "resolution has 3 axes",
        AGAIN,
    ),
    "no index": Case(removed("out/index.npy"), "out/index.npy", "no such object", AGAIN),
    "an index that is cut short": Case(cut("out/index.npy"), "out/index.npy", "but the manifest says", AGAIN),
    "an index of another dataset": Case(
        lambda place: np.save(place / "out" / "index.npy", np.zeros(3)), "out/index.npy", "but the manifest says", AGAIN
    ),
    "a row that points astray": Case(astray, "out/index.npy: row 3", "reaches beyond the end of its shard", AGAIN),
    "a shard that no manifest lists": Case(
        nothing,
        "out/manifest.json",
        "lists no shard `train-9.tar`",
        "the first is",
        (*VERIFY, "--shard", "train-9.tar"),
    ),
    "a source that is none": Case(
        nothing, "nowhere", "there is no such folder", "give a dataset folder", (*VERIFY, "--against", "nowhere")
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    write_dataset(place / "tiny")
    assert convert(place / "tiny", place / "out", "zarr") == 0
    return place


def test_there_are_many_kinds() -> None:
    assert len(CASES) >= 25
    assert len({(case.found, case.arguments[0]) for case in CASES.values()}) >= 25


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_refused_by_one_message_and_nothing_changes(
    case: Case, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    shutil.copytree(finished, place)
    monkeypatch.chdir(place)
    case.breaks(place)
    before = contents(place)
    assert main(list(case.arguments)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("refused: ")
    assert case.where in said.err
    assert case.found in said.err
    assert case.cure in said.err
    assert (said.err.count("refused: "), said.out) == (1, "")
    assert contents(place) == before


def test_an_unfinished_conversion_of_something_else_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data_prep.conversion.convert.assemble", stopped)
        assert convert(finished / "tiny", tmp_path / "out", "zarr", *SMALL) == 130
    before = contents(tmp_path / "out")
    assert convert(finished / "tiny", tmp_path / "out", "webdataset", *SMALL) == 2
    assert "an unfinished conversion of another source or with other options is here; give" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before
