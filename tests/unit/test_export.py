"""A trained model for other programs: what export writes, and what load_tokeniser and load_dynamics make of it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.unit.prepared import Prepared, prepare
from trainer.__main__ import main
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.errors import DONE, REFUSED, RefusedError, SnapshotError
from trainer.pretrained import Scaling, load_dynamics, load_tokeniser
from trainer.snapshot import open_snapshot
from trainer.trained import open_trained
from trainer.world import world_from_environment

CONFIG = """\
name: exported
output: {folder}/{kind}
steps: 3
stage:
  kind: {kind}
  tokeniser: {{widths: [4], kernels: [{{time: 2, space: 2}}], blocks: [1], latent_channels: 4}}
  compressions: [{{levels: [{{time: 2, space: 2}}]}}]
  {processor}
data:
  datasets: [{{url: {data}}}]
  window: {{frames: 5}}
  batch_size: 2
  normalisation: {normalisation}
  {scaling}
optimizer: {{learning_rate: 1e-2, average_decay: 0.5}}
engine: {{kind: plain, micro_batch_size: 2}}
evaluation: {{max_windows: 2, context_frames: {context}, rollout_frames: {rollout}}}
"""


def written(folder: Path, data: Prepared, kind: str, normalisation: str, more: str = "") -> tuple[Path, Path]:
    """The config of a run, and the run's folder. `more` of the processor."""
    dynamics = kind == "dynamics"
    processor = f"processor: {{width: 8, depth: 1, num_heads: 2, feed_forward: 8, {more}}}" if dynamics else ""
    settings: dict[str, Any] = {"context": 3, "rollout": 2} if dynamics else {"context": 1, "rollout": 0}
    settings["scaling"] = "isotropic: true\n  transforms: {asinh: [density]}" if dynamics else ""
    config = folder / f"{kind}-{normalisation}.yaml"
    text = CONFIG.format(
        folder=folder, kind=kind, data=data.url, normalisation=normalisation, processor=processor, **settings
    )
    config.write_text(text.replace(f"output: {folder}/{kind}", f"output: {folder}/{kind}-{normalisation}"))
    return config, folder / f"{kind}-{normalisation}"


def train(folder: Path, data: Prepared, kind: str, normalisation: str, more: str = "") -> Path:
    config, run = written(folder, data, kind, normalisation, more)
    assert main(["train", str(config)]) == DONE
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data")
    return prepare(folder, lengths=(12, 8), splits=("train", "valid"), resolution=(8, 8))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Prepared) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    cases = {"tokeniser": "standard", "dynamics": "window_rms"}
    return {kind: train(folder, data, kind, normalisation) for kind, normalisation in cases.items()}


@pytest.fixture(scope="module")
def exports(runs: dict[str, Path]) -> dict[str, Path]:
    for kind, run in runs.items():
        assert main(["export", str(run), str(run / "export")]) == DONE, kind
    return {kind: run / "export" for kind, run in runs.items()}


def fields_of(data: Prepared, frames: int) -> torch.Tensor:
    return torch.from_numpy(data.frames[1][None, :frames].copy())


def test_an_export_is_safetensors_by_parameter_name_and_a_config(exports: dict[str, Path]) -> None:
    folder = exports["tokeniser"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "manifest.json", "model-00000.safetensors"]
    weights = open_snapshot(str(folder.parent)).weights()
    found = load_file(folder / "model-00000.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert load_yaml(folder / "config.yaml", RunConfig).name == "exported"


def test_an_export_holds_no_optimiser_states(exports: dict[str, Path]) -> None:
    snapshot = open_snapshot(str(exports["tokeniser"]))
    assert all(snapshot.read(name).keys() == {"weight"} for name in snapshot.names)


@pytest.mark.parametrize("kind", ["tokeniser", "dynamics"])
def test_an_export_scores_as_its_run(runs: dict[str, Path], exports: dict[str, Path], kind: str) -> None:
    world = world_from_environment({})
    scores = [open_trained(str(place), world=world).scores() for place in (runs[kind], exports[kind])]
    assert scores[0] == scores[1]


def test_a_tokeniser_reconstructs_as_evaluation_does(exports: dict[str, Path], data: Prepared) -> None:
    sample = open_trained(str(exports["tokeniser"]), world=world_from_environment({})).sample()
    tokeniser = load_tokeniser(str(exports["tokeniser"]))
    again = tokeniser.decode(tokeniser.encode(sample.truth[None], dataset="waves"))
    torch.testing.assert_close(again[0], sample.prediction)


def test_dynamics_forecast_as_evaluation_does(exports: dict[str, Path], data: Prepared) -> None:
    world = world_from_environment({})
    trained = open_trained(str(exports["dynamics"]), world=world, overrides=["evaluation.max_windows=1"])
    sample = trained.sample()
    start = next(
        start
        for start in range(len(data.frames[1]) - 4)
        if torch.allclose(torch.from_numpy(data.frames[1][start + 3]), sample.truth[0], rtol=1e-4)
    )
    context = torch.from_numpy(data.frames[1][None, start : start + 3].copy())
    future = load_dynamics(str(exports["dynamics"])).forecast(context, 2, dataset="waves")
    torch.testing.assert_close(future[0], sample.prediction, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_an_array_is_as_good_as_a_tensor(exports: dict[str, Path], data: Prepared, dtype: type) -> None:
    dynamics = load_dynamics(str(exports["dynamics"]))
    array = np.round(8 * data.frames[1][None, :3]).astype(dtype)
    tensor = torch.from_numpy(array.astype(np.float32))
    array.flags.writeable = False  # as of a file that is mapped
    assert torch.equal(
        dynamics.forecast(array, 2, dataset="waves"),
        dynamics.forecast(tensor, 2, dataset="waves"),
    )


def test_complex_fields_are_refused(exports: dict[str, Path], data: Prepared) -> None:
    with pytest.raises(RefusedError, match="fields are complex"):
        load_tokeniser(str(exports["tokeniser"])).encode(data.frames[1][None, :3] + 1j, dataset="waves")


def test_missing_values_are_zeros_to_the_model_as_in_training(exports: dict[str, Path], data: Prepared) -> None:
    dynamics, tokeniser = load_dynamics(str(exports["dynamics"])), load_tokeniser(str(exports["tokeniser"]))
    fields = fields_of(data, 3)
    fields[0, 1, 0, 2, 3] = torch.nan
    assert dynamics.forecast(fields, 2, dataset="waves").isfinite().all()
    mean = fields.clone()
    mean[0, 1, 0, 2, 3] = float(tokeniser.scaling.of("waves").shift[0])
    latents = [tokeniser.encode(given, dataset="waves").values for given in (fields, mean)]
    torch.testing.assert_close(*latents)


def test_datasets_of_one_name_are_told_apart_by_number(exports: dict[str, Path]) -> None:
    about = open_snapshot(str(exports["tokeniser"])).about
    (one,) = about.datasets
    other = one.model_copy(update={"shift": tuple(10.0 + value for value in one.shift)})
    scaling = Scaling(about.model_copy(update={"datasets": (one, other)}))
    assert (scaling.of("waves#0"), scaling.of("waves#1")) == (one, other)
    with pytest.raises(RefusedError, match="known: waves#0, waves#1"):
        scaling.of("waves")


@pytest.fixture(scope="module")
def conditioned(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditioned")
    return train(folder, data, "dynamics", "standard", more="conditions: [time_step]")


def test_a_conditioned_model_is_told_its_conditions(conditioned: Path, data: Prepared) -> None:
    dynamics, fields = load_dynamics(str(conditioned)), fields_of(data, 3).expand(2, -1, -1, -1, -1)
    slow, fast = (dynamics.forecast(fields, 2, dataset="waves", conditions={"time_step": step}) for step in (0.1, 0.7))
    each = dynamics.forecast(fields, 2, dataset="waves", conditions={"time_step": torch.tensor([0.1, 0.7])})
    torch.testing.assert_close(each, torch.stack([slow[0], fast[1]]))
    assert not torch.equal(slow, fast)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({}, "conditions are none, but this model is told time_step"),
        ({"time_step": 1.0, "viscosity": 1.0}, "conditions are time_step, viscosity, but"),
        ({"time_step": torch.ones(3)}, "a condition is a number, or 1 of them"),
    ],
)
def test_other_conditions_are_refused(conditioned: Path, data: Prepared, conditions: Any, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        load_dynamics(str(conditioned)).forecast(fields_of(data, 3), 2, dataset="waves", conditions=conditions)


@pytest.mark.parametrize(
    ("frames", "num_frames", "message"),
    [(3, 0, "num_frames is 0"), (4, 2, "time stride is 2: .* 3 or 5"), (0, 2, "no axis empty")],
)
def test_frames_that_make_no_forecast_are_refused(
    frames: int, num_frames: int, message: str, exports: dict[str, Path], data: Prepared
) -> None:
    with pytest.raises(RefusedError, match=message):
        load_dynamics(str(exports["dynamics"])).forecast(fields_of(data, frames), num_frames, dataset="waves")


def test_the_average_is_another_model(runs: dict[str, Path], exports: dict[str, Path], tmp_path: Path) -> None:
    assert main(["export", str(runs["tokeniser"]), str(tmp_path / "averaged"), "--average"]) == DONE
    averaged, last = (
        load_file(place / "model-00000.safetensors") for place in (tmp_path / "averaged", exports["tokeniser"])
    )
    assert averaged.keys() == last.keys()
    assert not all(torch.equal(averaged[name], last[name]) for name in last)


def test_an_average_that_was_not_kept_is_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="average_decay of its run is null"):
        load_tokeniser(str(exports["tokeniser"]), average=True)


def test_a_damaged_export_is_to_be_made_again(exports: dict[str, Path], tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(exports["tokeniser"], tmp_path / "damaged"))
    with open(damaged / "model-00000.safetensors", "ab") as file:
        file.write(b"more")
    with pytest.raises(SnapshotError, match=r"model-00000\.safetensors has .* bytes, .*; export the snapshot again"):
        load_tokeniser(str(damaged))


def test_other_boundaries_give_another_reconstruction(exports: dict[str, Path], data: Prepared) -> None:
    tokeniser, fields = load_tokeniser(str(exports["tokeniser"])), fields_of(data, 5)
    own, walls = (
        tokeniser.decode(tokeniser.encode(fields, dataset="waves", boundary=boundary))
        for boundary in (None, (("wall", "wall"), ("wall", "wall")))
    )
    assert not torch.equal(own, walls)


@pytest.mark.parametrize("sides", [("periodic", "wall"), ("slippy", "wall")])
def test_sides_that_no_dataset_could_have_are_refused(
    sides: tuple[str, str], exports: dict[str, Path], data: Prepared
) -> None:
    """Models ask the low side of an axis alone whether it is periodic."""
    tokeniser = load_tokeniser(str(exports["tokeniser"]))
    with pytest.raises(RefusedError, match="expected wall or open for each, or periodic for both"):
        tokeniser.encode(fields_of(data, 5), dataset="waves", boundary=(sides, sides))


def test_the_wrong_kind_is_refused(exports: dict[str, Path]) -> None:
    with pytest.raises(SnapshotError, match="of a dynamics run"):
        load_tokeniser(str(exports["dynamics"]))
    with pytest.raises(SnapshotError, match="use load_tokeniser"):
        load_dynamics(str(exports["tokeniser"]))


def test_another_dataset_and_other_channels_are_refused(exports: dict[str, Path], data: Prepared) -> None:
    tokeniser = load_tokeniser(str(exports["tokeniser"]))
    with pytest.raises(RefusedError, match="known: waves"):
        tokeniser.encode(fields_of(data, 5), dataset="storms")
    with pytest.raises(RefusedError, match="expected \\(batch, time, channel"):
        tokeniser.encode(fields_of(data, 5)[:, :, :1], dataset="waves")


def test_other_axes_of_space_and_other_compressions_are_refused(exports: dict[str, Path], data: Prepared) -> None:
    tokeniser, fields = load_tokeniser(str(exports["tokeniser"])), fields_of(data, 5)
    with pytest.raises(RefusedError, match="with 2 axes of space"):
        tokeniser.encode(fields[..., None], dataset="waves")
    with pytest.raises(RefusedError, match="sides of 3 axes, but dataset 'waves' has 2"):
        tokeniser.encode(fields, dataset="waves", boundary=(("open", "open"),) * 3)
    with pytest.raises(RefusedError, match="compression 7 is none of the 1"):
        tokeniser.encode(fields, dataset="waves", compression=7)


def test_a_destination_that_holds_something_is_refused(
    exports: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(exports["tokeniser"]), str(exports["dynamics"])]) == REFUSED
    assert "is not empty; name a new folder" in capsys.readouterr().err


def _longer(manifest: dict[str, Any], key: str, value: int) -> None:
    config = yaml.safe_load(manifest["about"]["config"])
    config["stage"]["tokeniser"][key] = [value]
    manifest["about"]["config"] = yaml.safe_dump(config)


def _of_whole_numbers(manifest: dict[str, Any]) -> None:
    for states in manifest["entries"].values():
        states["weight"]["dtype"] = "I32"


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "its config has more blocks than it holds tensors": lambda manifest: _longer(manifest, "blocks", 1024),
    "but a model for this data has": lambda manifest: _longer(manifest, "widths", 2**16),
    "`another` is no weight of its config's model": lambda manifest: manifest["entries"].update(
        another=next(iter(manifest["entries"].values()))
    ),
    r"is torch\.int32, expected torch\.float32": _of_whole_numbers,
}


@pytest.mark.parametrize("said", DAMAGES)
def test_weights_that_are_not_its_configs_are_refused_before_memory_is_taken(
    exports: dict[str, Path], tmp_path: Path, said: str
) -> None:
    shutil.copytree(exports["tokeniser"], tmp_path / "export")
    manifest = json.loads((tmp_path / "export" / "manifest.json").read_text())
    DAMAGES[said](manifest)
    (tmp_path / "export" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SnapshotError, match=said):
        load_tokeniser(str(tmp_path / "export"))


def test_one_process_without_deepspeed_reads_it(exports: dict[str, Path]) -> None:
    program = (
        "import sys; from trainer.pretrained import load_tokeniser; load_tokeniser(sys.argv[1]); "
        "assert 'deepspeed' not in sys.modules and not __import__('torch').distributed.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", program, str(exports["tokeniser"])], check=True)
