"""Values that are not finite in the source: the model sees zeros, and losses and scores count the others alone."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.batches import make_batch
from tests.unit.converting import convert
from tests.unit.test_stages import FINE, dynamics_stage, tokeniser_stage
from tests.unit.tiny_well import TinyField, write_dataset, write_file
from trainer.batch import Batch
from trainer.config.schema import DataConfig
from trainer.data.loader import Loader
from trainer.data.stream import evaluation_loader, open_datasets, training_loader
from trainer.evaluate import Rollout, evaluate_frames, evaluate_rollouts
from trainer.losses import frame_mse, frame_vrmse
from trainer.masked import stood_for
from trainer.scores import nrmse, spectral_error, vrmse
from trainer.stages.dynamics import DynamicsStage
from trainer.stages.objective import LossWeights, field_loss
from trainer.stages.tokeniser import TokeniserStage

WEIGHTS = LossWeights(mse=1.0, vrmse=1.0, variance_floor=1e-2)
SHAPE = (2, 3, 2, 4, 5)
Score = Callable[..., Tensor]
SCORES: dict[str, Score] = {"vrmse": vrmse, "nrmse": nrmse, "spectral_error": spectral_error, "frame_mse": frame_mse}


def frame_vrmse_floored(prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    return frame_vrmse(prediction, target, valid, variance_floor=1e-2)


SCORES["frame_vrmse"] = frame_vrmse_floored


def random(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def valid() -> Tensor:
    mask = random(7) > 0
    mask[1, 2, 0] = False  # a whole frame of a channel
    return mask


by_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)


@by_score
def test_a_mask_that_marks_all_changes_nothing(score: Score) -> None:
    prediction, target = random(0), random(1)
    everything = torch.ones(SHAPE, dtype=torch.bool)
    torch.testing.assert_close(score(prediction, target, everything), score(prediction, target), rtol=1e-12, atol=0)


@by_score
def test_what_is_predicted_for_masked_values_does_not_count(score: Score, valid: Tensor) -> None:
    prediction, target = random(0), random(1)
    garbage = torch.where(valid, prediction, 1e6)
    torch.testing.assert_close(score(garbage, target, valid), score(prediction, target, valid), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vrmse", "nrmse", "frame_mse", "frame_vrmse"])
def test_what_stands_in_the_target_for_masked_values_does_not_count(name: str, valid: Tensor) -> None:
    prediction, target = random(0), random(1)
    expected = SCORES[name](prediction, target, valid)
    found = SCORES[name](prediction, torch.where(valid, target, -1e3), valid)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_score_is_that_of_the_valid_values_alone(valid: Tensor) -> None:
    prediction, target = random(0), random(1)
    found = vrmse(prediction, target, valid)
    for index in np.ndindex(2, 3, 2):
        chosen = valid[index].flatten().tolist()
        pairs = zip(prediction[index].flatten().tolist(), target[index].flatten().tolist(), strict=True)
        kept = [pair for pair, is_valid in zip(pairs, chosen, strict=True) if is_valid]
        if not kept:
            continue
        mean = sum(y for _, y in kept) / len(kept)
        variance = sum((y - mean) ** 2 for _, y in kept) / (len(kept) - 1)
        mse = sum((x - y) ** 2 for x, y in kept) / len(kept)
        assert found[index].item() == pytest.approx(math.sqrt(mse / (variance + 1e-7)), rel=1e-9)


# ---- losses


def masked_batch(valid: Tensor) -> Batch:
    batch = make_batch(num_windows=2, frames=3, space=(4, 5))
    return replace(batch, fields=torch.where(valid, batch.fields, 0), valid=valid)


def test_no_gradient_comes_from_masked_values(valid: Tensor) -> None:
    batch = masked_batch(valid)
    prediction = torch.full_like(batch.fields, 0.5).requires_grad_()
    field_loss(prediction, batch, weights=WEIGHTS)["loss"].backward()
    assert prediction.grad is not None
    assert not prediction.grad[~valid].any()
    assert prediction.grad[valid].all()


def test_the_loss_is_the_mean_over_frames_that_have_a_valid_value(valid: Tensor) -> None:
    batch = masked_batch(valid)
    prediction = batch.fields + 2
    assert field_loss(prediction, batch, weights=WEIGHTS)["mse"].item() == pytest.approx(4.0)


def test_a_batch_without_any_valid_value_costs_nothing() -> None:
    batch = masked_batch(torch.zeros(SHAPE, dtype=torch.bool))
    loss = field_loss(batch.fields + 2, batch, weights=WEIGHTS)["loss"]
    assert loss.item() == 0.0


@pytest.mark.parametrize("stage", [tokeniser_stage(FINE), dynamics_stage()], ids=["tokeniser", "dynamics"])
def test_the_loss_does_not_depend_on_which_windows_share_a_micro_batch(stage: TokeniserStage | DynamicsStage) -> None:
    """One has twice as many gaps as the other, and one no valid value at all."""
    batch = make_batch(num_windows=3, frames=3, space=(8, 8))
    valid = torch.rand(batch.fields.shape, generator=torch.Generator().manual_seed(3))
    valid = valid > torch.tensor([0.3, 0.6, 1.0]).view(3, 1, 1, 1, 1)
    batch = replace(batch, fields=torch.where(valid, batch.fields, 0), valid=valid)
    alone = [
        stage.module(
            replace(
                batch,
                fields=batch.fields[row : row + 1],
                valid=valid[row : row + 1],
                windows=batch.windows[row : row + 1],
                time_step=batch.time_step[row : row + 1],
                scale=batch.scale[row : row + 1],
                shift=batch.shift[row : row + 1],
            )
        ).loss
        for row in range(3)
    ]
    torch.testing.assert_close(stage.module(batch).loss, torch.stack(alone).mean())


def test_latents_of_missing_values_do_not_count() -> None:
    """Three frames of 5 x 4 cells, a latent for each step of time and 2 x 2 cells; one cell of the last is missing."""
    valid = torch.ones(1, 3, 2, 5, 4, dtype=torch.bool)
    valid[0, 2, 1, 4, 0] = False
    expected = torch.ones(1, 2, 3, 2, dtype=torch.bool)
    expected[0, 1, 2, 0] = False
    assert torch.equal(stood_for(valid, (1, 2, 2)), expected)
    assert stood_for(valid, (2, 5, 4)).tolist() == [[[[False]]]]


def test_the_latent_loss_is_blind_to_frames_without_values() -> None:
    stage = dynamics_stage(latent_weight=1.0, weights=replace(WEIGHTS, mse=0.0, vrmse=0.0))
    batch = make_batch(frames=3, space=(8, 8))
    valid = torch.ones(batch.fields.shape, dtype=torch.bool)
    valid[:, 2] = False
    one, other = batch.fields.clone(), batch.fields.clone()
    other[:, 2] += 5
    losses = [stage.module(replace(batch, fields=fields, valid=valid)).loss for fields in (one, other)]
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("stage", [tokeniser_stage(FINE), dynamics_stage()], ids=["tokeniser", "dynamics"])
def test_a_stage_learns_from_the_valid_values_alone(stage: TokeniserStage | DynamicsStage) -> None:
    """Real models: a finite loss and finite gradients, and the field loss is that of the valid values."""
    valid = torch.rand((2, 3, 2, 8, 8), generator=torch.Generator().manual_seed(3)) > 0.3
    batch = make_batch()
    batch = replace(batch, fields=torch.where(valid, batch.fields, 0), valid=valid)
    output = stage.module(batch)
    output.loss.backward()
    gradients = [parameter.grad for parameter in stage.module.parameters() if parameter.grad is not None]
    assert output.loss.isfinite()
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    errors = (stage.module(batch, predict=True) - batch.fields).square()
    expected = torch.stack([errors[index][valid[index]].mean() for index in np.ndindex(2, 3, 2)]).mean()
    assert (output.sums["mse"] / output.counts["mse"]).item() == pytest.approx(expected.item(), rel=1e-5)


# ---- evaluation


class Predictor(nn.Module):
    """Predicts `amount` more than there is; records what it was given."""

    def __init__(self, amount: float, *, at_masked: float = 0.0) -> None:
        super().__init__()
        self.amount, self.at_masked = amount, at_masked
        self.seen: list[Tensor] = []

    def forward(self, batch: Batch, predict: bool = False, rollout: tuple[int, int] | None = None) -> Tensor:
        self.seen.append(batch.fields)
        predicted = batch.fields + self.amount
        predicted = predicted if batch.valid is None else torch.where(batch.valid, predicted, self.at_masked)
        return predicted if rollout is None else predicted[:, rollout[0] : sum(rollout)]


def evaluated(module: nn.Module, batch: Batch) -> dict[str, float]:
    def alone(tensor: Tensor) -> Tensor:
        return tensor

    frames = evaluate_frames(module, [(batch, 2)], first_frame=1, sum_over_ranks=alone)
    rollout = Rollout(context=1, horizon=2)
    return frames | evaluate_rollouts(module, [(batch, 2)], rollout=rollout, sum_over_ranks=alone)


def test_evaluation_does_not_see_what_is_predicted_for_masked_values(valid: Tensor) -> None:
    batch = masked_batch(valid)
    assert evaluated(Predictor(0.5, at_masked=1e9), batch) == evaluated(Predictor(0.5), batch)


def test_a_channel_without_valid_values_has_no_score(valid: Tensor) -> None:
    valid[:, :, 1] = False
    scores = evaluated(Predictor(0.5), masked_batch(valid))
    assert "vrmse@density" in scores
    assert "vrmse@momentum_x" not in scores
    assert all(math.isfinite(value) for value in scores.values())
    assert scores["vrmse"] == scores["vrmse@density"]


def test_persistence_is_scored_where_both_frames_are_valid(valid: Tensor) -> None:
    batch = masked_batch(valid)
    physical, known = batch.physical(batch.fields), valid[:, 1:] & valid[:, :-1]
    expected = vrmse(physical[:, :-1], physical[:, 1:], known)[known.flatten(3).any(-1)].mean().item()
    assert evaluated(Predictor(0.5), batch)["vrmse_persistence"] == pytest.approx(expected)


# ---- from the source to the batch

FIELDS = (TinyField("pressure"), TinyField("velocity", rank=1), TinyField("depth", time_varying=False))
FIELD_IDS = {name: number for number, name in enumerate(("pressure", "velocity_x", "velocity_y", "depth"))}
KINDS = ("standard", "rms", "window_rms")


def spoil(file: h5py.File) -> None:
    values = file["t0_fields/pressure"][()]
    values[1, :2, 2:, 3], values[1, 4, 1, 1] = np.nan, -np.inf
    file["t0_fields/pressure"][...] = values
    file["t0_fields/depth"][1, 3, 5] = np.nan


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Trajectory 1 of train/b.hdf5 and of valid/a.hdf5 have values that are not finite."""
    folder = tmp_path_factory.mktemp("valid")
    write_dataset(folder / "tiny", fields=FIELDS)
    for path in ("train/b.hdf5", "valid/a.hdf5"):
        write_file(folder / "tiny" / "data" / path, fields=FIELDS, seed=1, edit=spoil)
    assert convert(folder / "tiny", folder / "out", "webdataset", "--not-finite", "keep") == 0
    return str(folder / "out")


class Alone:
    rank, size = 0, 1


def loader(url: str, kind: str, *, split: str) -> Loader:
    sections = {"datasets": ({"url": url},), "window": {"frames": 5}, "batch_size": 1, "normalisation": kind}
    data = DataConfig.model_validate(sections)
    datasets = open_datasets(data, split=split)
    common = {"share": Alone(), "micro_batch_size": 1, "field_ids": FIELD_IDS, "pin": False}
    if split == "train":
        return training_loader(data, datasets, seed=0, step=0, **common)
    return evaluation_loader(data, datasets, frames=5, max_windows=9, **common)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_zeros_and_says_where(stored: str, kind: str) -> None:
    with loader(stored, kind, split="valid") as batches:
        taken = [replace(batch, fields=batch.fields.clone()) for batch, _ in batches.scored()]
    spoiled, whole = sorted(taken, key=lambda batch: batch.valid is None)
    assert whole.valid is None
    expected = torch.ones(1, 5, 4, 4, 6, dtype=torch.bool)
    expected[0, :2, 0, 2:, 3], expected[0, 4, 0, 1, 1], expected[0, :, 3, 3, 5] = False, False, False
    assert spoiled.valid is not None
    assert torch.equal(spoiled.valid, expected)
    assert torch.equal(spoiled.fields == 0, ~expected)
    assert spoiled.fields.isfinite().all()
    assert (spoiled.fields.abs() < 100).all()


@pytest.mark.parametrize("kind", KINDS)
def test_valid_values_are_those_of_the_source(stored: str, kind: str) -> None:
    with h5py.File(Path(stored).with_name("tiny") / "data/valid/a.hdf5") as file:
        pressure = torch.from_numpy(file["t0_fields/pressure"][1])
    with loader(stored, kind, split="valid") as batches:
        spoiled = next(batch for batch, _ in batches.scored() if batch.valid is not None)
        found = spoiled.physical(spoiled.fields)[0, :, 0]
        assert spoiled.valid is not None
        valid = spoiled.valid[0, :, 0]
    torch.testing.assert_close(found[valid], pressure[valid], rtol=1e-5, atol=1e-5)


def test_the_scale_of_a_window_is_of_its_valid_values(stored: str) -> None:
    with h5py.File(Path(stored).with_name("tiny") / "data/valid/a.hdf5") as file:
        first = file["t0_fields/pressure"][1, 0].astype(np.float64)
    with loader(stored, "window_rms", split="valid") as batches:
        scale = next(float(batch.scale[0, 0]) for batch, _ in batches.scored() if batch.valid is not None)
    assert scale == pytest.approx(np.sqrt(np.nanmean(first**2)), rel=1e-6)


def test_training_never_sees_what_is_not_finite(stored: str) -> None:
    with loader(stored, "rms", split="train") as batches:
        fields = [batches.take(1)[0].fields.isfinite().all() for _ in range(12)]
    assert all(fields)
