"""What a trained tokeniser loses at each compression of its declared set, on held-out data: table, JSON, picture.

One set of weights serves them all, so this is the promise of run-time compression, measured. Used by the command line.
"""

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

from trainer.errors import RefusedError
from trainer.models.flexible_conv import Stride
from trainer.scoring import Sample
from trainer.spectrum import BANDS
from trainer.stages.build import strides_of
from trainer.stages.tokeniser import TokeniserStage, latent_grid
from trainer.trained import Trained


@dataclass(frozen=True, slots=True)
class Point:
    """One compression and what it loses."""

    compression: int
    """Its number in the declared set."""
    strides: tuple[Stride, ...]
    """(time, space) of each level."""
    tokens_to_one: float
    """Positions of the fields for each latent position, of the first dataset."""
    elements_to_one: float
    """Numbers of the fields for each number of the latents, of the first dataset."""
    scores: dict[str, float]
    """By name, as `evaluate` gives them."""


@dataclass(frozen=True, slots=True)
class RateDistortion:
    """The points, the lightest compression first."""

    name: str
    """Of the run."""
    split: str
    points: tuple[Point, ...]
    samples: tuple[Sample, ...]
    """One held-out window as each of the points reconstructs it."""
    ratios_of: str
    """The first dataset, whose ratios they are, where scores are of several; else empty."""

    def error(self, point: Point, name: str = "vrmse") -> float:
        return point.scores[f"{self.split}/{name}"]

    @property
    def is_monotone(self) -> bool:
        """Whether no heavier compression reconstructs better than a lighter one."""
        errors = [self.error(point) for point in self.points]
        return all(one <= other for one, other in pairwise(errors))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "split": self.split,
            "is_monotone": self.is_monotone,
            "ratios_of": self.ratios_of or None,
            "compressions": [asdict(p) for p in self.points],
        }

    def as_table(self) -> str:
        """For people: one line for each compression."""
        head = f"{'compression':>11}  {'strides (time x space)':24}{'tokens':>9}{'numbers':>9}{'VRMSE':>9}"
        lines = [head + "".join(f"{band:>9}" for band in BANDS) + "  (error energy by wavenumber)"]
        for point in self.points:
            strides = ", ".join(" x ".join(map(str, stride)) for stride in point.strides)
            row = f"{point.compression:>11}  {strides:24}{point.tokens_to_one:>7.4g}:1{point.elements_to_one:>7.3g}:1"
            bands = "".join(f"{self.error(point, f'spectral_{band}'):>9.2g}" for band in BANDS)
            lines.append(f"{row}{self.error(point):>9.4f}{bands}")
        verdict = "grows" if self.is_monotone else "does NOT grow"
        lines.append(f"the error {verdict} with compression at every step")
        if self.ratios_of:
            lines.append(f"ratios are those of {self.ratios_of}, scores are of all; name one dataset to see its own")
        return "\n".join(lines)

    def as_picture(self) -> bytes:
        """PNG: VRMSE over compression, of all channels and of each; and a frame of the channel that fares worst."""
        from trainer.pictures import compression_picture  # matplotlib takes 0.6 s

        curves = {"all": self._curve("vrmse")} | {
            name.partition("@")[2]: self._curve(name.partition("/")[2])
            for name in self.points[0].scores
            if name.startswith(f"{self.split}/vrmse@")
        }
        heaviest = self.points[-1]
        channel = max(self.samples[0].channels, key=lambda name: heaviest.scores.get(f"{self.split}/vrmse@{name}", 0.0))
        worst = f"vrmse@{channel}"
        number = self.samples[0].channels.index(channel)
        panels = {
            f"{point.elements_to_one:.3g} to 1\nVRMSE {self.error(point, worst):.2g}": _frame(sample, number)
            for point, sample in zip(self.points, self.samples, strict=True)
        }
        truth = self.samples[0].truth[-1, number].numpy()
        title = f"{self.name}: one set of weights at {len(panels)} compressions, {self.split} split"
        if self.ratios_of:
            title += f", ratios of {self.ratios_of}"
        return compression_picture(curves, panels, truth=truth, channel=channel, title=title)

    def _curve(self, name: str) -> list[tuple[float, float]]:
        return [(point.elements_to_one, self.error(point, name)) for point in self.points]


def measure_compressions(trained: Trained) -> RateDistortion:
    """Scores at every compression of the declared set. Raises RefusedError for a run that trained no tokeniser."""
    stage, config = trained.stage, trained.config
    if not isinstance(stage, TokeniserStage):
        raise RefusedError(
            f"{trained.snapshot.url} is of a {stage.kind} run, which has one compression; leave --compression out, "
            "or name a tokeniser run"
        )
    pairs = []
    for number, strides in enumerate(map(strides_of, config.stage.compressions)):
        single = replace(trained, stage=stage.at_compression(number))
        pairs.append((_point(trained, single.scores(), number=number, levels=strides), single.sample()))
    pairs.sort(key=lambda pair: pair[0].elements_to_one)
    points, samples = zip(*pairs, strict=True)
    first, *others = trained.held_out.datasets
    ratios_of = first.name if others else ""
    return RateDistortion(config.name, config.evaluation.split, points, samples, ratios_of)


def _frame(sample: Sample, channel: int) -> Any:
    """The last frame of the reconstruction, (*space)."""
    return sample.prediction[-1, channel].numpy()


def _point(trained: Trained, scores: dict[str, float], *, number: int, levels: tuple[Stride, ...]) -> Point:
    dataset, section = trained.held_out.datasets[0], trained.config.stage.tokeniser
    frames, space = trained.config.data.windows[0].frames, dataset.manifest.dataset.resolution
    tokens, positions = prod(latent_grid(frames, space, levels)), frames * prod(space)
    return Point(
        compression=number,
        strides=levels,
        tokens_to_one=positions / tokens,
        elements_to_one=positions * len(dataset.channels) / (tokens * section.latent_channels),
        scores=scores,
    )
