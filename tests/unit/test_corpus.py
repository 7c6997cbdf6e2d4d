"""A corpus of one's own: a class with two methods, found by its address, checked, converted like any other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.fields import Boundary
from data_prep.contract.manifest import load_manifest
from data_prep.contract.storage import Storage
from data_prep.corpus import Axis, Description, Field, Run
from data_prep.sources.corpus_source import CorpusSource, is_address
from data_prep.sources.prepared import open_source
from tests.unit.converting import LAYOUTS, SMALL, stored_frames

WAVES = """
import numpy as np
from data_prep.corpus import Axis, Description, Field, Run


class Waves:
    def __init__(self, folder):
        self.folder = folder

    def describe(self):
        runs = [
            Run(
                split,
                f"run-{number}",
                times=0.5 * np.arange(6),
                scalars={"gravity": 9.8},
                files=[f"{self.folder}/{split}.npy"],
            )
            for split in ("train", "valid")
            for number in range(2)
        ]
        return Description(
            name="waves",
            axes=[Axis("x", np.linspace(0, 1, 4), "periodic"), Axis("y", [0.0, 1.0, 3.0], ("wall", "open"))],
            fields=[Field(name="height"), Field(name="velocity", rank=1)],
            constant_fields=[Field(name="depth")],
            runs=runs,
        )

    def read(self, run, name, start, stop):
        values = np.load(run.files[0])[int(run.name[-1])]  # (time, channel, x, y)
        if name == "depth":
            return values[0, 3]
        return values[start:stop, 0] if name == "height" else np.moveaxis(values[start:stop, 1:3], 1, -1)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    (tmp_path / "waves.py").write_text(WAVES)
    generator = np.random.default_rng(0)
    for split in ("train", "valid"):
        np.save(tmp_path / f"{split}.npy", generator.standard_normal((2, 6, 4, 4, 3)).astype(np.float32))
    return tmp_path


def address(folder: Path) -> str:
    return f"{folder / 'waves.py'}:Waves@{folder}"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_corpus_of_ones_own_comes_back_bit_by_bit(folder: Path, layout: str) -> None:
    source, out = address(folder), folder / "out"
    assert main(["convert", source, str(out), "--format", layout, *SMALL]) == 0
    for split in ("train", "valid"):
        original = np.load(folder / f"{split}.npy")
        for number in range(2):
            found = stored_frames(out)[f"{split}/run-{number}#0"]
            np.testing.assert_array_equal(found.view(np.uint32), original[number, :, :3].view(np.uint32))
    assert main(["verify", str(out), "--against", source]) == 0


def test_two_workers_make_it_too(folder: Path) -> None:
    assert main(["convert", address(folder), str(folder / "out"), "--format", "zarr", "--workers", "2", *SMALL]) == 0
    assert len(stored_frames(folder / "out")) == 4


def test_what_it_says_of_itself_is_in_the_manifest(folder: Path) -> None:
    assert main(["convert", address(folder), str(folder / "out"), "--format", "zarr"]) == 0
    manifest, _ = load_manifest(Storage(str(folder / "out")))
    spec = manifest.dataset
    assert spec.name == "waves"
    assert (spec.channels, spec.constant_channels) == (("height", "velocity_x", "velocity_y"), ("depth",))
    assert spec.boundaries == ((Boundary.PERIODIC, Boundary.PERIODIC), (Boundary.WALL, Boundary.OPEN))
    assert spec.coordinates[1] == (0.0, 1.0, 3.0)
    assert manifest.trajectories[0].scalars == {"gravity": 9.8}
    assert manifest.trajectories[0].times == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    assert [file.bytes for file in manifest.provenance.files[:1]] == [(folder / "train.npy").stat().st_size]


def test_a_file_that_changed_undoes_its_own_shards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", address(folder), str(folder / "out"), "--format", "zarr", *SMALL]) == 0
    values = np.load(folder / "valid.npy")
    np.save(folder / "valid.npy", values[:, :, :, :, :].copy() + 1)
    assert main(["convert", address(folder), str(folder / "out"), "--format", "zarr", *SMALL]) == 2
    assert "`provenance.files` differs" in capsys.readouterr().err


def test_show_and_statistics_read_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", address(folder)]) == 0
    assert "x: 4 points from 0 to 1, periodic" in capsys.readouterr().out
    assert main(["statistics", address(folder)]) == 0
    assert "velocity:" in capsys.readouterr().out


def test_what_follows_the_class_may_be_a_url(folder: Path) -> None:
    """The class alone knows what to do with it."""
    text = (folder / "waves.py").read_text().replace("self.folder = folder", f"self.folder = {str(folder)!r}")
    (folder / "elsewhere.py").write_text(text)
    source = f"{folder / 'elsewhere.py'}:Waves@gopher://bucket/raw"
    assert main(["convert", source, str(folder / "out"), "--format", "webdataset"]) == 0
    assert main(["show", source, "--scan"]) == 0


# ---- addresses


@pytest.mark.parametrize("text", ["waves.py:Waves", "a/b/waves.py:Waves@s3://bucket/x", "my.corpora.waves:Waves"])
def test_an_address_names_a_class(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text", ["s3://bucket/waves.py", "memory://x", "waves.py", "/data/a:b/c", "C:/data", "hf://a/b"]
)
def test_a_place_is_no_address(text: str) -> None:
    assert not is_address(text)


def test_a_module_that_python_finds_is_one_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    assert open_source(f"waves:Waves@{folder}").spec.name == "waves"


WRONG_ADDRESSES = {
    "no file": ("gone.py:Waves", "there is no file"),
    "no class": ("waves.py:Wave", "has no class `Wave`"),
    "no module": ("no.such.module:Waves", "importing no.such.module failed"),
    "broken code": ("broken.py:Waves", "importing"),
    "a constructor that fails": ("waves.py:Waves", "Waves() failed in"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_ADDRESSES.values(), ids=WRONG_ADDRESSES)
def test_a_wrong_address_is_one_message(
    folder: Path, text: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "broken.py").write_text("import nothing_of_this_name\n")
    assert main(["convert", text, "out", "--format", "zarr"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"refused: {text}: ")
    assert message in said
    assert not (folder / "out").exists()


def test_a_place_among_the_files_of_the_source_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not where the code lies beside them, as here in `folder`: that is how small projects look."""
    raw = folder / "raw"
    raw.mkdir()
    for split in ("train", "valid"):
        (folder / f"{split}.npy").rename(raw / f"{split}.npy")
    assert main(["convert", f"{folder / 'waves.py'}:Waves@{raw}", str(raw / "out"), "--format", "zarr"]) == 2
    assert f"lies inside {raw}, where files of the source are; give another" in capsys.readouterr().err
    assert sorted(path.name for path in raw.iterdir()) == ["train.npy", "valid.npy"]


def test_a_run_whose_name_no_manifest_can_have_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (folder / "waves.py").read_text().replace("run-{number}", "run\\x1b[31m-{number}")
    (folder / "waves.py").write_text(code)
    assert main(["convert", address(folder), str(folder / "out"), "--format", "zarr"]) == 2
    said = capsys.readouterr().err
    assert "holds control characters or what is no UTF-8; rename it" in said
    assert "\x1b" not in said


# ---- what a corpus may get wrong

AXES = (Axis("x", np.arange(4.0)), Axis("y", np.arange(3.0)))
GOOD = Description(name="waves", axes=AXES, fields=[Field(name="height")], runs=[Run("train", "a", times=[0.0, 1.0])])


class Saying:
    """A corpus that describes itself as it is told."""

    def __init__(self, description: Description, values: Callable[[int], object]) -> None:
        self.description, self.values = description, values

    def describe(self) -> Description:
        return self.description

    def read(self, run: Run, name: str, start: int, stop: int) -> object:
        return self.values(stop - start)


def zeros(num_steps: int) -> np.ndarray:
    return np.zeros((num_steps, 4, 3), np.float32)


def opened(description: Description, values: Callable[[int], object] = zeros) -> CorpusSource:
    return CorpusSource("waves.py:Waves", Saying(description, values))


def with_run(**changes: object) -> Description:
    return replace(GOOD, runs=[replace(GOOD.runs[0], **changes)])


WRONG = {
    "no runs": (replace(GOOD, runs=[]), "gives no runs"),
    "a name that is a path": (replace(GOOD, name="../x"), 'name is "../x"; expected letters'),
    "a field twice": (replace(GOOD, fields=[Field(name="a"), Field(name="a")]), "field names repeat"),
    "no fields": (replace(GOOD, fields=[]), "fields is []; expected 1 or more"),
    "an unknown boundary": (replace(GOOD, axes=[Axis("x", [0.0], "slippy")]), "'slippy', expected wall"),
    "three sides": (replace(GOOD, axes=[Axis("x", [0.0], ("open",) * 3)]), "expected wall"),
    "a grid with holes": (replace(GOOD, axes=[Axis("x", [0.0, np.nan])]), "coordinates of `x` have shape (2,)"),
    "a grid of words": (replace(GOOD, axes=[Axis("x", ["a"])]), "coordinates of `x` are no numbers"),
    "an unknown split": (with_run(split="dev"), "split is 'dev'"),
    "a run outside": (with_run(name="../a"), "must be relative"),
    "a run whose number is none": (with_run(name="a#b"), "with `#` and a number"),
    "no times": (with_run(times=[]), "times have shape (0,)"),
    "times that go back": (with_run(times=[0.0, 0.5, 0.25]), "time of frame 2 is 0.25, expected one after 0.5"),
    "a side that is periodic": (
        replace(GOOD, axes=[Axis("x", np.arange(4.0), ("periodic", "open")), AXES[1]]),
        "boundaries of x are periodic and open; expected periodic at both or none",
    ),
    "a scalar of another length": (with_run(scalars={"g": [1.0, 2.0, 3.0]}), "scalar `g` has 3 values"),
    "a run twice": (replace(GOOD, runs=[GOOD.runs[0]] * 2), "two runs have this name"),
    "scalars that differ": (
        replace(GOOD, runs=[GOOD.runs[0], Run("train", "b", times=[0.0], scalars={"g": 1.0})]),
        "scalars are ('g',), but the first run has ()",
    ),
}


@pytest.mark.parametrize(("description", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_description_is_refused_by_name(description: Description, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        opened(description)
    assert str(refused.value).startswith(("waves.py:Waves", "`../a`"))
    assert message in str(refused.value)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotFoundError, match=r"gone\.npy"):
        opened(with_run(files=("/nowhere/gone.npy",)))


WRONG_VALUES: dict[str, tuple[Callable[[int], object], str]] = {
    "another shape": (lambda steps: np.zeros((steps, 3, 4)), r"gives \(1, 3, 4\) of float64, expected \(1, 4, 3\)"),
    "no time": (lambda steps: np.zeros((4, 3)), r"gives \(4, 3\)"),
    "texts": (lambda steps: np.full((steps, 4, 3), "a"), "of <U1, expected"),
    "nothing": (lambda steps: None, r"gives \(\) of object"),
    "an error": (lambda steps: {}["x"], r"read\(…, 'height', 0, 1\) failed in .*test_corpus\.py:\d+: KeyError: 'x'"),
}


@pytest.mark.parametrize(("values", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_wrong_values_are_told_when_it_is_opened(values: Callable[[int], object], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        opened(GOOD, values)


def test_rounding_is_warned_of() -> None:
    assert opened(GOOD, lambda steps: np.zeros((steps, 4, 3))).warnings == (
        "waves.py:Waves: `height` is float64; its values are rounded to float32",
    )


def test_describing_something_else_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"describe\(\) gives dict, expected corpus\.Description"):
        opened({})


def test_the_class_on_the_page_works_as_it_stands(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "data_prep" / "README.md").read_text()
    (tmp_path / "waves.py").write_text(page.partition("```python\n# waves.py\n")[2].partition("```")[0])
    (tmp_path / "raw").mkdir()
    values = np.random.default_rng(0).standard_normal((10, 20, 64, 64)).astype(np.float32)
    for number, run in enumerate(values):
        np.save(tmp_path / "raw" / f"{number}.npy", run)
    source = open_source(f"{tmp_path / 'waves.py'}:Waves@{tmp_path / 'raw'}")
    found = np.empty((20, 1, 64, 64), np.float32)
    with source.reader() as reader:
        reader.read_frames(source.trajectories[-1], 0, out=found)
    assert (source.trajectories[-1].name, len(source.trajectories)) == ("valid/9#0", 10)
    np.testing.assert_array_equal(found[:, 0], values[9])
