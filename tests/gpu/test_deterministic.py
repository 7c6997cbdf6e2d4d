"""Two runs of one config with `engine.deterministic` leave the same bits on a GPU, sharded and in bfloat16."""

import shutil

import pytest

from tests.integration.tiny_corpus import make_corpus
from tests.integration.trainings import Workshop, make_workshop, same_state
from trainer.world import World

SETTINGS = ("engine.deterministic=true", "engine.precision=bf16", "steps=20")


@pytest.fixture(scope="module")
def workshop(gpu: World, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("deterministic")
    make_corpus(folder)
    return make_workshop(folder / "runs", folder)


def trained(workshop: Workshop, config: str, output: str, *overrides: str) -> None:
    ended = workshop.run("trainer", "train", f"{config}.yaml", f"output={output}", *SETTINGS, *overrides)
    assert ended.code == 0, ended.err[-3000:]


@pytest.mark.parametrize("stage", ["tokeniser", "dynamics"])
def test_equal_runs_are_equal_bit_by_bit(workshop: Workshop, stage: str) -> None:
    start = () if stage == "tokeniser" else ("stage.start_from=null",)
    for name in ("first", "second"):
        trained(workshop, stage, f"{stage}-{name}", *start)
    assert workshop.losses(f"{stage}-first") == workshop.losses(f"{stage}-second")
    assert same_state(workshop.state(f"{stage}-first"), workshop.state(f"{stage}-second"))


def test_a_resumed_run_is_the_unbroken_one_bit_by_bit(workshop: Workshop) -> None:
    trained(workshop, "tokeniser", "unbroken")
    shutil.copytree(workshop.folder / "unbroken", workshop.folder / "resumed")
    for path in (workshop.folder / "resumed" / "snapshots").iterdir():
        if path.name != "step-00000010":
            shutil.rmtree(path)
    assert workshop.snapshots("resumed") == [10]
    trained(workshop, "tokeniser", "resumed")
    assert same_state(workshop.state("resumed"), workshop.state("unbroken"))
