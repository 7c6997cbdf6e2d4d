"""Transforms and isotropic scales: undone by `physical`, and turned as the fields are."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.contract.fields import Boundary, DatasetSpec, Field
from data_prep.contract.manifest import Moments
from trainer.data.augment import Augmenter, Turn, turns_of
from trainer.data.normalise import Components, Kind, Normaliser, Values, normaliser
from trainer.scaling import TransformKind, physical

EPSILON = float(np.finfo(np.float32).eps)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["standard", "rms", "window_rms"])
seeds = st.integers(0, 999)


def moments_of(values: Values) -> Moments:
    exact = values.astype(np.float64)
    rms = float(np.sqrt(np.mean(exact**2)))
    return Moments(mean=float(exact.mean()), std=float(exact.std()), rms=rms, mean_delta=0, std_delta=1, rms_delta=1)


def undone(scaling: Normaliser, values: Values) -> Values:
    """Normalised by the loader's way, and back by the one of batches."""
    fields = values.copy()
    scale, shift = scaling.apply(fields)
    back = physical(
        torch.from_numpy(fields)[None], torch.tensor(scale), torch.tensor(shift), transforms=scaling.transforms
    )
    return back[0].numpy()


@given(kind=kinds, spread=st.floats(1e-3, 3), size=st.floats(-4, 4), seed=seeds)
def test_physical_undoes_logarithms(kind: Kind, spread: float, size: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = (10**size * np.exp(spread * random.standard_normal((3, 1, 4, 4)))).astype(np.float32)
    scaling = normaliser(kind, channels=["a"], statistics={"a": moments_of(values)}, transforms={"a": "log"})
    steps = 8 * (1 + np.abs(np.log(values / values.mean())).max())  # roundings of logarithms of this size
    np.testing.assert_allclose(undone(scaling, values), values, rtol=steps * EPSILON)


@given(kind=kinds, mean=st.floats(-2, 2), tail=st.floats(0.1, 4), size=st.floats(-4, 4), seed=seeds)
def test_physical_undoes_inverse_hyperbolic_sines(kind: Kind, mean: float, tail: float, size: float, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 1, 4, 4))
    values = (10**size * (mean + np.sign(values) * np.abs(values) ** tail)).astype(np.float32)
    moments = moments_of(values)
    scaling = normaliser(kind, channels=["a"], statistics={"a": moments}, transforms={"a": "asinh"})
    steps = 8 * (1 + np.abs(np.arcsinh(values / moments.rms)).max())
    error = np.abs(undone(scaling, values) - values)
    assert (error <= steps * EPSILON * np.hypot(values, moments.rms)).all()


@given(spread=st.floats(1e-3, 2.5), size=st.floats(-4, 4))
def test_a_log_normal_field_comes_out_of_mean_zero_and_std_one(spread: float, size: float) -> None:
    mean, variance = 10**size * np.exp(spread**2 / 2), np.expm1(spread**2)
    std = float(mean * np.sqrt(variance))
    moments = Moments(mean=mean, std=std, rms=float(np.hypot(mean, std)), mean_delta=0, std_delta=1, rms_delta=1)
    scaling = normaliser("standard", channels=["a"], statistics={"a": moments}, transforms={"a": "log"})
    quantiles = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    values = (10**size * np.exp(spread * quantiles)).astype(np.float32).reshape(1, 1, -1)
    scaling.apply(values)
    np.testing.assert_allclose(values[0, 0], quantiles, atol=1e-6 / spread + 1e-5)


@pytest.mark.parametrize("transform", ["log", "asinh"])
@given(mean=st.floats(0.1, 10), seed=seeds)
def test_a_field_of_small_spread_is_scaled_as_without_a_transform(
    transform: TransformKind, mean: float, seed: int
) -> None:
    """Both are straight lines from near by."""
    values = (mean * (1 + 0.01 * np.random.default_rng(seed).standard_normal((2, 1, 8, 8)))).astype(np.float32)
    statistics = {"a": moments_of(values)}
    plain, transformed = values.copy(), values.copy()
    normaliser("standard", channels=["a"], statistics=statistics).apply(plain)
    normaliser("standard", channels=["a"], statistics=statistics, transforms={"a": transform}).apply(transformed)
    np.testing.assert_allclose(transformed, plain, atol=0.1)


# ------------------------------------------------------------------------------------------------ vectors and tensors

PERIODIC = (Boundary.PERIODIC, Boundary.PERIODIC)
SPEC = DatasetSpec(
    name="waves",
    grid_type="cartesian",
    spatial_dims=("x", "y", "z"),
    resolution=(3, 3, 3),
    boundaries=(PERIODIC,) * 3,
    fields=(Field(name="height"), Field(name="slope", rank=1), Field(name="bend", rank=2)),
    coordinates=((0.0, 1.0, 2.0),) * 3,
)
TURNS = turns_of(SPEC, kind="all", axes=range(3))
AUGMENTER = Augmenter(SPEC, turns=TURNS, rolled=(), pseudo=(), seed=0)
ISOTROPIC = (Components(1, 4, 1), Components(4, 13, 2))


def window_of(seed: int) -> Values:
    """Every component of its own mean and size."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((2, 13, 3, 3, 3))
    return (random.uniform(-3, 3, (13, 1, 1, 1)) + random.uniform(0.1, 5, (13, 1, 1, 1)) * values).astype(np.float32)


def scaling_of(kind: Kind, *, isotropic: tuple[Components, ...] = ISOTROPIC) -> Normaliser:
    values = np.moveaxis(np.concatenate([window_of(seed) for seed in range(4)]), 1, 0)
    statistics = {name: moments_of(channel) for name, channel in zip(SPEC.channels, values, strict=True)}
    return normaliser(kind, channels=SPEC.channels, statistics=statistics, isotropic=isotropic)


def turned(values: Values, turn: Turn) -> Values:
    out = np.empty_like(values)
    AUGMENTER.apply(values, out, turn=turn, shift=(0, 0, 0))
    return out


def normalised(scaling: Normaliser, values: Values) -> Values:
    fields = values.copy()
    scaling.apply(fields)
    return fields


@given(kind=kinds, turn=st.sampled_from(TURNS), seed=seeds)
def test_isotropic_scaling_commutes_with_turns(kind: Kind, turn: Turn, seed: int) -> None:
    scaling, window = scaling_of(kind), window_of(seed)
    before, after = normalised(scaling, turned(window, turn)), turned(normalised(scaling, window), turn)
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["standard", "rms"])
def test_scaling_by_component_does_not(kind: Kind) -> None:
    """`window_rms` does by chance: a component's own scale turns along."""
    scaling, window = scaling_of(kind, isotropic=()), window_of(0)
    turn = Turn((1, 2, 0), (True, False, False))
    before, after = normalised(scaling, turned(window, turn)), turned(normalised(scaling, window), turn)
    assert np.abs(before[:, 1:] - after[:, 1:]).max() > 0.1


@example(kind="standard", seed=317)  # a change of almost nothing
@given(kind=kinds, seed=seeds)
def test_isotropic_scaling_keeps_the_direction_of_vectors_and_of_their_changes(kind: Kind, seed: int) -> None:
    window = window_of(seed)
    fields = normalised(scaling_of(kind), window)
    for values, scaled in ((window, fields), (np.diff(window, axis=0), np.diff(fields, axis=0))):
        largest = np.abs(scaled[:, 1:4]).argmax()
        scale = values[:, 1:4].flat[largest] / scaled[:, 1:4].flat[largest]
        rounding = 8 * np.finfo(np.float32).eps * np.abs(window[:, 1:4]).max()  # of the values, their changes are small
        np.testing.assert_allclose(scale * scaled[:, 1:4], values[:, 1:4], rtol=0, atol=rounding)


def test_the_common_scale_is_the_rms_of_all_components_about_their_centre() -> None:
    values = np.moveaxis(np.concatenate([window_of(seed) for seed in range(4)]), 1, 0).astype(np.float64)
    scaling = scaling_of("standard")
    np.testing.assert_allclose(scaling.scale[1:4], np.sqrt(np.mean(values[1:4] ** 2)), rtol=1e-6)
    centre = np.mean(values[[4, 8, 12]])
    off = values[4:13] - centre * np.eye(3).reshape(9, 1, 1, 1, 1)
    np.testing.assert_allclose(scaling.shift, [values[0].mean(), 0, 0, 0, *(centre * np.eye(3)).flat], rtol=1e-6)
    np.testing.assert_allclose(scaling.scale[4:13], np.sqrt(np.mean(off**2)), rtol=1e-6)


@given(kind=kinds, seed=seeds)
def test_physical_undoes_isotropic_scaling(kind: Kind, seed: int) -> None:
    window = window_of(seed)
    np.testing.assert_allclose(undone(scaling_of(kind), window), window, rtol=0, atol=1e-5)
