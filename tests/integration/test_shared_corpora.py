"""Solver output that this project did not make: converted, verified, and learnt from by both stages under ZeRO-3."""

from statistics import fmean

import pytest

from data_prep.__main__ import main
from tests.integration.conftest import OpenWorkshop
from tests.integration.tiny_corpus import WIDE_PROCESSOR
from tests.integration.trainings import REPOSITORY, TORCHRUN, Workshop

SOURCE = REPOSITORY.parent / "shared" / "data" / "datasets" / "euler_multi_quadrants_periodicBC"
LAYOUTS = ("zarr", "webdataset")
SIZES = (
    "steps=50",
    "engine.zero_stage=3",
    "metrics.log_every_steps=5",
    "snapshots.every_steps=0",
    "evaluation.every_steps=0",
)

pytestmark = pytest.mark.skipif(
    not SOURCE.is_dir(), reason=f"{SOURCE} is not here; test_training and test_same_training do the same on our own"
)


@pytest.fixture(scope="module")
def converted(open_workshop: OpenWorkshop) -> Workshop:
    """The dataset in both layouts."""
    workshop = open_workshop("shared-corpora")
    for layout in LAYOUTS:
        assert main(["convert", str(SOURCE), str(workshop.folder / layout), "--format", layout]) == 0
    return workshop


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_converted_is_what_was_solved(converted: Workshop, layout: str) -> None:
    assert main(["verify", str(converted.folder / layout), "--against", str(SOURCE)]) == 0


@pytest.fixture(scope="module")
def trained(converted: Workshop) -> Workshop:
    """`tokeniser` on tars, then `dynamics` on zarr: the layout of the data is nothing to the model."""
    for stage, layout, width in (("tokeniser", "webdataset", ()), ("dynamics", "zarr", WIDE_PROCESSOR)):
        data = f"data.datasets=[{{url: {layout}}}]"
        ended = converted.run(*TORCHRUN, "trainer", "train", f"{stage}.yaml", *SIZES, *width, data)
        assert ended.code == 0, ended.err[-3000:]
    return converted


@pytest.mark.parametrize("stage", ["tokeniser", "dynamics"])
def test_fifty_steps_of_both_stages_learn(trained: Workshop, stage: str) -> None:
    losses = trained.losses(stage)
    assert list(losses) == list(range(5, 51, 5))
    reports = list(losses.values())
    assert fmean(reports[-3:]) < 0.9 * fmean(reports[:3])


def test_sharded_ranks_leave_one_whole_snapshot(trained: Workshop) -> None:
    assert trained.snapshots("dynamics") == [50]
    assert all(bool(value.isfinite().all()) for value in trained.state("dynamics").values())
