"""A tokeniser trained on shear flow serves Euler: fields move by name, and the message says which."""

from pathlib import Path

import pytest
import torch

from tests.integration.conftest import OpenWorkshop
from tests.integration.trainings import TRAIN_TOKENISER, Ended, Workshop
from tests.unit.converting import convert
from tests.unit.tiny_well import TinyBoundary, write_dataset
from trainer.snapshot import open_snapshot

STILL = "optimizer.learning_rate=1e-30"
"""Changes no row that is not zero."""
QUICK = ("engine.kind=plain", "steps=2", "snapshots.every_steps=2")
SHARED = "pressure"
TABLES = ("field_embedding.rows", "field_readout.rows", "field_readout.bias")


@pytest.fixture(scope="module")
def carried(open_workshop: OpenWorkshop, corpus: Path) -> tuple[Workshop, Ended]:
    """A folder with both runs in it, and how the second one ended."""
    workshop = open_workshop("another-vocabulary")
    ended = workshop.run(*TRAIN_TOKENISER, f"data.datasets=[{{url: {corpus}/shear}}]", *QUICK)
    assert ended.code == 0, ended.err[-3000:]
    return workshop, workshop.run("trainer", "train", "dynamics.yaml", STILL, *QUICK)


def test_the_message_says_which_fields_keep_their_rows(carried: tuple[Workshop, Ended]) -> None:
    said = f"fields that keep their rows: {SHARED}; that start fresh: density, energy, momentum_x, momentum_y"
    assert carried[1].code == 0, carried[1].err[-3000:]
    assert said in carried[1].err


@pytest.mark.parametrize("table", TABLES)
def test_a_shared_field_keeps_its_row(carried: tuple[Workshop, Ended], table: str) -> None:
    shear, euler = (_row(carried[0], run, table) for run in ("tokeniser", "dynamics"))
    assert torch.equal(shear, euler)


def test_a_tokeniser_run_may_start_from_another_and_add_fields(carried: tuple[Workshop, Ended]) -> None:
    again = ("trainer", "train", "tokeniser.yaml", "output=further", "stage.start_from=tokeniser", STILL)
    ended = carried[0].run(*again, *QUICK, "data.normalisation=rms")
    assert ended.code == 0, ended.err[-3000:]
    assert f"fields that keep their rows: {SHARED}; that start fresh: density," in ended.err
    assert "note: that tokeniser was trained with data.normalisation=standard, and this run has rms" in ended.err
    shear, further = (_row(carried[0], run, TABLES[0]) for run in ("tokeniser", "further"))
    assert torch.equal(shear, further)


def test_check_says_what_training_would_say(carried: tuple[Workshop, Ended]) -> None:
    overrides = ("output=further-still", "stage.start_from=tokeniser", "data.normalisation=rms")
    ended = carried[0].run("trainer", "check", "tokeniser.yaml", *overrides)
    assert ended.code == 0, ended.err[-3000:]
    assert f"fields that keep their rows: {SHARED}; that start fresh: density," in ended.out
    assert "data.normalisation=standard, and this run has rms" in ended.out


def test_sides_that_the_tokeniser_has_not_seen_are_told(carried: tuple[Workshop, Ended], tmp_path: Path) -> None:
    walls = (TinyBoundary("x_walls", ("x",), "WALL"), TinyBoundary("y_periodic", ("y",), "PERIODIC"))
    write_dataset(tmp_path / "walled", num_steps=9, axes={"x": 16, "y": 16}, boundaries=walls)
    assert convert(tmp_path / "walled", tmp_path / "prepared", "zarr") == 0
    data = f"data.datasets=[{{url: {tmp_path}/prepared}}]"
    ended = carried[0].run("trainer", "check", "tokeniser.yaml", data, "output=walled", "stage.start_from=tokeniser")
    assert ended.code == 0, ended.err[-3000:]
    assert "note: that tokeniser has not seen sides that are wall: what it knows of them is random" in ended.out


@pytest.mark.parametrize(("levels", "is_new"), [("[{space: [2, 2]}, {space: 2}]", False), ("[{space: 2}, {}]", True)])
def test_a_compression_is_new_by_its_strides_not_by_how_they_are_written(
    carried: tuple[Workshop, Ended], levels: str, is_new: bool
) -> None:
    overrides = ("output=anew", "stage.start_from=tokeniser", f"stage.compressions=[{{levels: {levels}}}]")
    ended = carried[0].run("trainer", "check", "tokeniser.yaml", *overrides)
    assert ended.code == 0, ended.err[-3000:]
    assert ("compressions.0 is none of those that the tokeniser was trained with" in ended.out) == is_new


def test_check_refuses_a_rule_that_rules_nothing(carried: tuple[Workshop, Ended]) -> None:
    overrides = ("output=ruled", "optimizer.rules=[{parameters: [nothing.*], learning_rate_factor: 0.1}]")
    ended = carried[0].run("trainer", "check", "tokeniser.yaml", *overrides)
    assert ended.code == 2
    assert "optimizer.rules: nothing.* matches no trained parameter" in ended.err


def test_new_rows_that_would_never_be_trained_are_refused(carried: tuple[Workshop, Ended]) -> None:
    ended = carried[0].run("trainer", "train", "dynamics.yaml", "output=frozen", "stage.trainable=processor", *QUICK)
    assert ended.code == 2
    assert "has not seen density, energy, momentum_x, momentum_y, whose rows would stay as they begin" in ended.err
    assert not (carried[0].folder / "frozen").exists()


def _row(workshop: Workshop, run: str, table: str) -> torch.Tensor:
    snapshot = open_snapshot(str(workshop.folder / run))
    (weight,) = (weight for name, weight in snapshot.weights().items() if name.endswith(table))
    return weight[snapshot.about.field_names.index(SHARED)]
