"""Every committed config loads, says what it costs, and passes `check` on a small dataset of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data_prep.contract.manifest import SPLITS
from data_prep.contract.strict_yaml.read import read_model
from data_prep.sources.xarray_description import XarrayDescription
from launchers.cluster import Cluster
from tests.unit.prepared import prepare
from trainer.check import check_run
from trainer.config.dump import dump_yaml
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig, StudyConfig
from trainer.study import plan_study

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CORPORA = sorted((CONFIGS / "prep").glob("*.yaml"))
CLUSTERS = sorted((CONFIGS / "clusters").glob("*.yaml"))
STUDIES = [path for path in sorted((CONFIGS / "study").glob("*.yaml")) if "\nin_domain:" in path.read_text()]
RUNS = [
    path
    for folder in ("tokeniser", "dynamics", "study")
    for path in sorted((CONFIGS / folder).glob("*.yaml"))
    if path not in STUDIES
]
OPENING = ("Command:", "Hardware:", "Hours:", "Score:")
HEADER_OF_PARTS = {"demo-tokeniser.yaml", "demo-dynamics.yaml"}
"""Parts of a study, which has no command of their own: the study's file says hours and score."""


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two axes of space, long trajectories in every split."""
    folder = tmp_path_factory.mktemp("configs") / "waves"
    return prepare(folder, lengths=(40, 40, 40), splits=SPLITS, resolution=(16, 16)).url


def test_every_yaml_file_is_of_a_known_kind() -> None:
    known = {*CORPORA, *CLUSTERS, *STUDIES, *RUNS, *(CONFIGS / "monitoring").iterdir()}
    assert [name(path) for path in CONFIGS.rglob("*.y*ml") if path not in known] == []


@pytest.mark.parametrize("path", CORPORA, ids=name)
def test_a_description_of_a_corpus_loads(path: Path) -> None:
    assert read_model(path, XarrayDescription).fields


@pytest.mark.parametrize("path", CLUSTERS, ids=name)
def test_a_cluster_loads(path: Path) -> None:
    load_yaml(path, Cluster)


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_run_is_of_the_kind_of_its_folder(path: Path) -> None:
    config = load_yaml(path, RunConfig)
    assert path.parent.name in ("study", config.stage.kind)


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_run_passes_check(path: Path, dataset: str) -> None:
    scratch = ["stage.start_from=null"] if load_yaml(path, RunConfig).stage.kind == "dynamics" else []
    config = load_yaml(path, RunConfig, overrides=[f"data.datasets=[{{url: {dataset}}}]", *scratch])
    assert "first windows" in check_run(config)


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_resolved_run_equals_itself(path: Path, tmp_path: Path) -> None:
    config = load_yaml(path, RunConfig)
    (tmp_path / "resolved.yaml").write_text(dump_yaml(config), encoding="utf-8")
    assert load_yaml(tmp_path / "resolved.yaml", RunConfig) == config


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_a_study_plans_runs_that_load(path: Path) -> None:
    runs = plan_study(load_yaml(path, StudyConfig), folder=path.parent)
    assert len({run.config.output for run in runs}) == len(runs) == 6


@pytest.mark.parametrize("path", [path for path in (*RUNS, *STUDIES) if path.name not in HEADER_OF_PARTS], ids=name)
def test_a_run_opens_with_command_hardware_hours_and_score(path: Path) -> None:
    assert [word for word in OPENING if word not in header(path)] == []


def test_outputs_do_not_meet() -> None:
    outputs = [load_yaml(path, RunConfig).output for path in RUNS]
    assert len(set(outputs)) == len(outputs)


def keys(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from keys(below, f"{path}.{key}")
    else:
        yield path


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_no_config_repeats_its_base(path: Path) -> None:
    """A value that the base gives already hides what a file changes."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "base" not in raw:
        return
    base = yaml.safe_load((path.parent / raw.pop("base")).read_text(encoding="utf-8"))
    assert [key for key in keys(raw) if at(base, key) == at(raw, key)] == []


def at(value: object, path: str) -> object:
    for key in path.split(".")[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    return value
