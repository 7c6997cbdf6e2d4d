"""Normalisation is undone by `Batch.physical`, for any statistics."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.contract.manifest import Moments
from tests.unit.batches import make_batch
from trainer.data.normalise import Kind, normaliser


@given(
    kind=st.sampled_from(["standard", "rms", "window_rms"]),
    mean=st.floats(-1e4, 1e4),
    std=st.floats(1e-3, 1e4),
    seed=st.integers(0, 1000),
)
def test_physical_undoes_normalisation(kind: Kind, mean: float, std: float, seed: int) -> None:
    original = (mean + std * np.random.default_rng(seed).standard_normal((2, 2, 4, 4))).astype(np.float32)
    moments = Moments(mean=mean, std=std, rms=float(np.hypot(mean, std)), mean_delta=0, std_delta=1, rms_delta=1)
    values = original.copy()
    scale, shift = normaliser(kind, channels=["a", "b"], statistics={"a": moments, "b": moments}).apply(values)
    fields = torch.from_numpy(values)[None]
    batch = replace(
        make_batch(num_windows=1), fields=fields, scale=torch.tensor(scale)[None], shift=torch.tensor(shift)[None]
    )
    largest = float(np.abs(original).max()) + abs(mean)
    np.testing.assert_allclose(batch.physical(fields)[0].numpy(), original, rtol=0, atol=4e-7 * largest)
