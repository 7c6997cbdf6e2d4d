"""Batches through pinned memory: a buffer is not filled anew while the GPU still has to copy from it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.unit.prepared import prepare
from trainer.config.schema import DataConfig
from trainer.data.loader import Loader
from trainer.data.stream import open_datasets, training_loader

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU; test_loader.py covers the same claims without one"
)


@dataclass(frozen=True)
class Share:
    rank: int = 0
    size: int = 1


def stream(url: str, *, pin: bool) -> Loader:
    data = DataConfig.model_validate(
        {"datasets": ({"url": url},), "window": {"frames": 4}, "batch_size": 4, "read_ahead_bytes": 1}
    )
    return training_loader(
        data,
        open_datasets(data),
        seed=0,
        step=0,
        share=Share(),
        micro_batch_size=4,
        field_ids={"density": 0, "momentum_x": 1, "momentum_y": 2},
        pin=pin,
    )


def test_copies_that_wait_behind_a_busy_gpu_have_the_right_values(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, resolution=(64, 64))
    with stream(prepared.url, pin=False) as loader:
        expected = [loader.take(1)[0].fields.clone() for _ in range(12)]
    busy = torch.randn(4096, 4096, device="cuda")
    with stream(prepared.url, pin=True) as loader:
        found = []
        for _ in range(12):
            for _ in range(20):
                busy = torch.tanh(busy @ busy)
            [batch] = loader.take(1)
            assert batch.fields.is_pinned()
            found.append(batch.to(torch.device("cuda")).fields)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))
