"""What `check` says of memory against the live tensors of real ranks."""

from typing import Any

import pytest

from tests.distributed.conftest import RunRanks
from tests.distributed.memory_cases import SIDE
from trainer.memory import Elements, state_bytes

CASES = {
    f"stage {stage} {precision}": {"stage": stage, "precision": precision}
    for stage in range(4)
    for precision in ("fp32", "bf16")
    if (stage, precision) != (0, "bf16")
}
SMALL_TENSORS = 0.03
"""Share for the batch, counters and alignment, which the arithmetic leaves out."""


@pytest.fixture(scope="module")
def measured(run_ranks: RunRanks) -> dict[str, int]:
    results: dict[int, dict[str, int]] = run_ranks("tests.distributed.memory_cases", {2: CASES})
    return results[2]


@pytest.mark.parametrize("name", CASES)
def test_a_rank_holds_what_the_arithmetic_says(measured: dict[str, int], name: str) -> None:
    case: dict[str, Any] = CASES[name]
    elements = Elements(trained=2 * SIDE**2, frozen=SIDE**2)
    expected = state_bytes(elements, zero_stage=case["stage"], precision=case["precision"], num_ranks=2).total
    assert measured[name] == pytest.approx(expected, rel=SMALL_TENSORS)
