"""A snapshot of any engine and world size goes on under any other."""

from typing import Any

import pytest

from tests.distributed.conftest import RunRanks

BF16 = {"precision": "bf16"}
SOAP = {"optimizer": {"kind": "soap"}}
FROZEN = {"frozen": True}
AVERAGED = {"optimizer": {"average_decay": 0.9}}
SLOW = {"optimizer": {"learning_rate": 3e-4}}
MODELS: dict[str, dict[str, Any]] = {
    "tokeniser, stage 2": {"model": "tokeniser", "stage": 2, **SLOW},
    "tokeniser, stage 3 bf16": {"model": "tokeniser", "stage": 3, **SLOW, **BF16},
    "dynamics, stage 3": {"model": "dynamics", "stage": 3, **SLOW},
    "dynamics, stage 1 bf16": {"model": "dynamics", "stage": 1, **SLOW, **BF16},
}
WRITERS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {"kind": "plain"}),
    "stage 1, one rank": (1, {"stage": 1}),
    "soap": (1, {"stage": 0, **SOAP}),
    "stage 0": (2, {"stage": 0}),
    "stage 2": (2, {"stage": 2}),
    "stage 3": (2, {"stage": 3}),
    "stage 1 bf16": (2, {"stage": 1, **BF16}),
    "stage 3 bf16": (2, {"stage": 3, **BF16}),
    "stage 2 frozen": (2, {"stage": 2, **FROZEN}),
    "stage 3 averaged": (2, {"stage": 3, **AVERAGED}),
    "stage 2 offloading": (2, {"stage": 2, "offload": "optimizer"}),
    **{name: (2, case) for name, case in MODELS.items()},
}
SAME: list[tuple[str, int, dict[str, Any]]] = [
    ("plain", 1, {"kind": "plain"}),
    ("stage 1, one rank", 1, {"stage": 1}),
    ("soap", 1, {"stage": 0, **SOAP}),
    ("stage 0", 2, {"stage": 0}),
    ("stage 2", 2, {"stage": 2}),
    ("stage 3", 2, {"stage": 3}),
    ("stage 1 bf16", 2, {"stage": 1, **BF16}),
    ("stage 3 bf16", 2, {"stage": 3, **BF16}),
    ("stage 2 frozen", 2, {"stage": 2, **FROZEN}),
    ("stage 3 averaged", 2, {"stage": 3, **AVERAGED}),
    ("stage 2 offloading", 2, {"stage": 2, "offload": "optimizer"}),
    *((name, 2, case) for name, case in MODELS.items()),
]
"""Writer, ranks, reader: the same arithmetic before and after."""
OTHER: list[tuple[str, int, dict[str, Any]]] = [
    ("stage 0", 1, {"kind": "plain"}),
    ("stage 2", 1, {"kind": "plain"}),
    ("stage 3", 1, {"kind": "plain"}),
    ("stage 3", 1, {"stage": 0, "accumulation": 2}),
    ("stage 2", 1, {"stage": 1}),
    ("stage 0", 1, {"stage": 3}),
    ("soap", 1, {"kind": "plain", **SOAP}),
    ("plain", 2, {"stage": 0}),
    ("plain", 2, {"stage": 2, "accumulation": 2}),
    ("plain", 2, {"stage": 3}),
    ("stage 1, one rank", 2, {"stage": 3}),
    ("stage 3", 2, {"stage": 1}),
    ("stage 2 frozen", 2, {"stage": 0, **FROZEN}),
    ("stage 2 frozen", 2, {"stage": 3, **FROZEN}),
    ("stage 2 frozen", 1, {"kind": "plain", **FROZEN}),
    ("stage 3 averaged", 1, {"kind": "plain", **AVERAGED}),
    ("stage 3 averaged", 2, {"stage": 1, **AVERAGED}),
    ("stage 2 offloading", 2, {"stage": 3, "offload": "optimizer_and_weights"}),
]
OTHER_BF16: list[tuple[str, int, dict[str, Any]]] = [
    ("stage 3 bf16", 2, {"stage": 2, **BF16}),
    ("stage 1 bf16", 2, {"stage": 3, **BF16}),
    ("stage 3 bf16", 1, {"stage": 1, **BF16}),
    ("stage 1 bf16", 1, {"kind": "plain", **BF16}),
]
HOPPING = ("tokeniser, stage 2", "dynamics, stage 3")
"""Written by 2 ranks; then 1 rank at stage 1 makes one step, and 4 ranks at stage 2 the others."""
READERS = SAME + OTHER + OTHER_BF16


def label(writer: str, size: int, reader: dict[str, Any]) -> str:
    return f"{writer} -> {size} {reader}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def written(run_ranks: RunRanks, folder: str) -> dict[str, Any]:
    """What each writer went on with."""
    cases: dict[int, dict[str, Any]] = {1: {}, 2: {"failing": {"stage": 2, "fail": f"{folder}/failing"}}}
    for name, (size, case) in WRITERS.items():
        cases[size][name] = {**case, "save": f"{folder}/{name}"}
    results = run_ranks("tests.distributed.snapshot_cases", cases)
    return {**results[1], **results[2]}


@pytest.fixture(scope="module")
def loaded(run_ranks: RunRanks, folder: str, written: dict[str, Any]) -> dict[str, Any]:
    cases: dict[int, dict[str, Any]] = {1: {}, 2: {}}
    for writer, size, reader in READERS:
        cases[size][label(writer, size, reader)] = {**reader, "load": f"{folder}/{writer}"}
    for writer in HOPPING:
        hop = {"load": f"{folder}/{writer}", "save": f"{folder}/{writer} again", "until": 4}
        cases[1][f"{writer}, hopping"] = {**MODELS[writer], "stage": 1, **hop}
    results = run_ranks("tests.distributed.snapshot_cases", cases)
    return {**results[1], **results[2]}


@pytest.fixture(scope="module")
def hopped(run_ranks: RunRanks, folder: str, loaded: dict[str, Any]) -> dict[str, Any]:
    """What 4 ranks at stage 2 went on with after the single one."""
    cases = {writer: {**MODELS[writer], "stage": 2, "load": f"{folder}/{writer} again"} for writer in HOPPING}
    results: dict[int, dict[str, Any]] = run_ranks("tests.distributed.snapshot_cases", {4: cases})
    return results[4]


@pytest.mark.parametrize("writer", HOPPING)
def test_resume_from_2_ranks_to_1_to_4_equals_never_stopped(
    written: dict[str, Any], loaded: dict[str, Any], hopped: dict[str, Any], writer: str
) -> None:
    """And from ZeRO 3 or 2 to 1 to 2."""
    losses = loaded[f"{writer}, hopping"]["loss"] + hopped[writer]["loss"]
    assert losses == pytest.approx(written[writer]["loss"], rel=1e-5)


@pytest.mark.parametrize(("writer", "size", "reader"), READERS)
def test_the_loaded_state_is_the_saved_one_bitwise(
    written: dict[str, Any], loaded: dict[str, Any], writer: str, size: int, reader: dict[str, Any]
) -> None:
    assert loaded[label(writer, size, reader)]["state"] == written[writer]["state"]


@pytest.mark.parametrize(("writer", "size", "reader"), SAME)
def test_resume_equals_never_stopped_bitwise(
    written: dict[str, Any], loaded: dict[str, Any], writer: str, size: int, reader: dict[str, Any]
) -> None:
    assert loaded[label(writer, size, reader)]["loss"] == written[writer]["loss"]


@pytest.mark.parametrize(("writer", "size", "reader"), OTHER)
def test_resume_elsewhere_equals_never_stopped(
    written: dict[str, Any], loaded: dict[str, Any], writer: str, size: int, reader: dict[str, Any]
) -> None:
    assert loaded[label(writer, size, reader)]["loss"] == pytest.approx(written[writer]["loss"], rel=1e-6)


@pytest.mark.parametrize(("writer", "size", "reader"), OTHER_BF16)
def test_resume_elsewhere_in_bfloat16_follows_never_stopped(
    written: dict[str, Any], loaded: dict[str, Any], writer: str, size: int, reader: dict[str, Any]
) -> None:
    assert loaded[label(writer, size, reader)]["loss"] == pytest.approx(written[writer]["loss"], rel=1e-3)


@pytest.mark.parametrize(("writer", "size", "reader"), READERS)
def test_the_learning_rate_goes_on(
    written: dict[str, Any], loaded: dict[str, Any], writer: str, size: int, reader: dict[str, Any]
) -> None:
    assert loaded[label(writer, size, reader)]["learning_rate"] == written[writer]["learning_rate"]


def test_the_run_goes_on_from_the_saved_step(loaded: dict[str, Any]) -> None:
    assert {(found["step"], found["samples_seen"]) for found in loaded.values()} == {(3, 24)}


def test_a_full_disk_on_one_rank_is_told_to_all(written: dict[str, Any]) -> None:
    """The result is rank 0's; the disk is rank 1's."""
    assert "rank 1: " in written["failing"]["message"]
    assert "no space left on device" in written["failing"]["message"]


def test_after_a_failed_save_the_former_snapshot_is_the_latest(written: dict[str, Any]) -> None:
    assert written["failing"]["latest"] == [1, 2]
