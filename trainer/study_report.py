"""The study's numbers and pictures, gathered from its finished runs into report.json and report.html."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config.schema import EvaluationConfig, StudyConfig
from trainer.data.stream import open_datasets, space_rank, vocabulary
from trainer.errors import RefusedError
from trainer.history import read_history
from trainer.pictures import Curve, curves_picture, rollout_picture, spectra_picture
from trainer.report import Picture, Section, Table, html_report, provenance, write_whole
from trainer.scores import power_spectrum
from trainer.scoring import Sample
from trainer.spectrum import BANDS
from trainer.study import StudyRun
from trainer.trained import held_out_of, open_trained
from trainer.world import prepare_device, world_from_environment

PERSISTENCE = "persistence"
LABELS = {
    "dynamics_scratch": "from scratch",
    "dynamics_in_domain": "in-domain tokeniser",
    "dynamics_in_domain_frozen": "in-domain tokeniser, mostly frozen",
    "dynamics_out_of_domain": "out-of-domain tokeniser",
    "tokeniser_in_domain": "in domain",
    "tokeniser_out_of_domain": "out of domain",
    PERSISTENCE: "persistence (no change predicted)",
}


def check_study(config: StudyConfig, runs: Sequence[StudyRun]) -> None:
    """Raises RefusedError for data that is missing, too short for a run or its test, or of other dimensions than that
    of another run, before anything is trained."""
    world = world_from_environment()
    ranks = {run.name: space_rank(open_datasets(run.config.data)) for run in runs}
    if len(set(ranks.values())) > 1:
        found = ", ".join(f"{name} {rank}D" for name, rank in ranks.items())
        raise RefusedError(f"study: a tokeniser serves data of the dimension it was trained on, found {found}")
    for run in runs:
        names = vocabulary(open_datasets(run.config.data))
        tested = run.config.model_copy(update={"evaluation": _test_of(run, config)})
        for scored in (run.config, tested):
            held_out_of(scored, field_names=names, world=world).check(stage=scored.stage.kind)


def report_study(config: StudyConfig, runs: Sequence[StudyRun]) -> Path:
    """Scores every run on the test split and writes both files; gives the path of report.html."""
    world = world_from_environment()
    prepare_device(world.device)
    torch.set_num_threads(config.ranks)  # the cores of the ranks, which have ended
    scores: dict[str, dict[str, float]] = {}
    samples: dict[str, Sample] = {}
    for run in runs:
        print(f"study: scoring {run.name} on the {config.test.split} split", file=sys.stderr)
        overrides = (f"evaluation={_test_of(run, config).model_dump_json()}",)
        trained = open_trained(run.config.output, world=world, overrides=overrides)
        scores[run.name] = {name.partition("/")[2]: value for name, value in trained.scores().items()}
        samples[run.name] = trained.sample()
    numbers = _numbers(config, runs, scores)
    folder = Path(config.output)
    write_whole(folder / "report.json", json.dumps(numbers, indent=2) + "\n")
    page = html_report(
        title=f"Does pretraining the tokeniser pay? Study {config.name}",
        summary=_summary(numbers),
        sections=_sections(config, runs, numbers, samples),
        provenance=numbers["provenance"],
    )
    write_whole(folder / "report.html", page)
    return folder / "report.html"


def _test_of(run: StudyRun, config: StudyConfig) -> EvaluationConfig:
    """How this run is scored in the end: a tokeniser makes no rollouts."""
    makes_rollouts = run.config.stage.kind == "dynamics"
    return config.test if makes_rollouts else config.test.model_copy(update={"rollout_frames": 0})


def _numbers(
    config: StudyConfig, runs: Sequence[StudyRun], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    arms = {name: dict(values) for name, values in scores.items() if name.startswith("dynamics_")}
    scratch, in_domain = arms["dynamics_scratch"], arms["dynamics_in_domain"]
    return {
        "study": config.name,
        "split": config.test.split,
        "steps": {run.name: run.config.steps for run in runs},
        "arms": arms,
        "tokenisers": {name: dict(values) for name, values in scores.items() if name.startswith("tokeniser_")},
        PERSISTENCE: {
            "vrmse": scratch["vrmse_persistence"],
            "rollout_vrmse": scratch.get("rollout_vrmse_persistence"),
        },
        "gain_of_in_domain_pretraining": 1 - in_domain["vrmse"] / scratch["vrmse"],
        "throughput": {run.name: read_history(run.config.output).throughput() for run in runs},
        "provenance": provenance(),
    }


def _summary(numbers: Mapping[str, Any]) -> str:
    arms, gain = numbers["arms"], numbers["gain_of_in_domain_pretraining"]
    return (
        f"After equal steps ({numbers['steps']['dynamics_scratch']}) of dynamics training, one-step VRMSE on the "
        f"{numbers['split']} split is {arms['dynamics_scratch']['vrmse']:.3f} from scratch and "
        f"{arms['dynamics_in_domain']['vrmse']:.3f} with a tokeniser pretrained on the same system: "
        f"{abs(gain):.0%} {'lower' if gain > 0 else 'higher'}. Predicting no change scores "
        f"{numbers[PERSISTENCE]['vrmse']:.3f}."
    )


def _sections(
    config: StudyConfig, runs: Sequence[StudyRun], numbers: Mapping[str, Any], samples: Mapping[str, Sample]
) -> list[Section]:
    arms = {name: sample for name, sample in samples.items() if name.startswith("dynamics_")}
    tokeniser = {name: sample for name, sample in samples.items() if name == "tokeniser_in_domain"}
    vrmse = "VRMSE: 0 is perfect, 1 is predicting the spatial mean of each frame."
    processes = f"{config.ranks} processes on one machine; the numbers are of all of them together."
    return [
        Section("Error at the end", [_result_table(numbers), vrmse]),
        Section("Learning", _learning(runs)),
        Section("Rollouts", [*_rollouts(arms), _rollout_errors(numbers)]),
        Section("Spectra", [_spectra(arms)]),
        Section("Tokenisers", [_tokeniser_table(numbers), *_rollouts(tokeniser, word="reconstructed")]),
        Section("Throughput", [_throughput_table(numbers), processes]),
    ]


def _result_table(numbers: Mapping[str, Any]) -> Table:
    arms, still = numbers["arms"], numbers[PERSISTENCE]
    scratch = arms["dynamics_scratch"]["vrmse"]
    scored = {**arms, PERSISTENCE: still}
    rows = [
        (
            LABELS[name],
            _number(scores["vrmse"]),
            f"{scores['vrmse'] / scratch - 1:+.0%}",
            _number(scores.get("rollout_vrmse")),
            *(_number(scores.get(f"spectral_{band}")) for band in BANDS[:2]),
        )
        for name, scores in scored.items()
    ]
    best = min(range(len(arms)), key=lambda row: float(list(arms.values())[row]["vrmse"]))
    headings = ("", "one-step VRMSE", "against scratch", "rollout VRMSE", "low-band error", "mid-band error")
    return Table(headings, rows, best=best, quiet=(len(rows) - 1,))


def _learning(runs: Sequence[StudyRun]) -> list[Picture]:
    arms = {LABELS[run.name]: _curve(run, "valid/vrmse") for run in runs if run.name.startswith("dynamics_")}
    tokenisers = {LABELS[run.name]: _curve(run, "valid/vrmse") for run in runs if run.name.startswith("tokeniser_")}
    still = next(_curve(run, "valid/vrmse_persistence") for run in runs if run.name == "dynamics_scratch")
    dynamics_png = curves_picture({**arms, PERSISTENCE: still}, xlabel="step", title="next frame, validation split")
    tokeniser_png = curves_picture(tokenisers, xlabel="step", title="reconstruction, validation split of its own data")
    return [
        Picture(dynamics_png, "One-step error of the four arms while they learn."),
        Picture(tokeniser_png, "Reconstruction error of the two tokenisers while they learn."),
    ]


def _curve(run: StudyRun, name: str) -> Curve:
    return read_history(run.config.output).curve(name)


def _rollouts(samples: Mapping[str, Sample], *, word: str = "forecast") -> list[Picture]:
    """The first two channels of one held-out window, beside the truth."""
    first = next(iter(samples.values()))
    frames = len(first.truth)
    leads = sorted({round(index * (frames - 1) / 4) for index in range(5)})
    pictures = []
    for channel, name in enumerate(first.channels[:2]):
        rows = {"truth": first.truth[:, channel].numpy()}
        rows |= {LABELS[run]: sample.prediction[:, channel].numpy() for run, sample in samples.items()}
        png = rollout_picture(rows, leads=leads, title=f"{name}, {word}")
        pictures.append(Picture(png, f"{name} of one held-out window: the truth, then what each model {word}."))
    return pictures


def _rollout_errors(numbers: Mapping[str, Any]) -> Picture:
    curves = {
        LABELS[name]: sorted(
            (int(key.removeprefix("rollout_vrmse@")), value)
            for key, value in scores.items()
            if key.startswith("rollout_vrmse@")
        )
        for name, scores in numbers["arms"].items()
    }
    png = curves_picture(curves, xlabel="frames ahead", title="rollout, held-out windows")
    return Picture(png, "How the error of a rollout grows with the lead.")


def _spectra(samples: Mapping[str, Sample]) -> Picture:
    """Energy spectrum of the first channel in the last frame of the forecasts."""
    first = next(iter(samples.values()))
    spectra = {"truth": _spectrum(first.truth)}
    spectra |= {LABELS[run]: _spectrum(sample.prediction) for run, sample in samples.items()}
    png = spectra_picture(spectra, title=f"{first.channels[0]}, {len(first.truth)} frames ahead")
    return Picture(png, "Energy over wavenumber in the last frame of the rollout; below the truth, a model blurs.")


def _spectrum(fields: Tensor) -> Any:
    return power_spectrum(fields[None, -1:, :1].double())[0, 0, 0].numpy()


def _tokeniser_table(numbers: Mapping[str, Any]) -> Table:
    rows = [
        (LABELS[name], _number(scores["vrmse"]), _number(scores["spectral_low"]), _number(scores["spectral_mid"]))
        for name, scores in numbers["tokenisers"].items()
    ]
    return Table(("pretrained", "reconstruction VRMSE, own test data", "low-band error", "mid-band error"), rows)


def _throughput_table(numbers: Mapping[str, Any]) -> Table:
    rows = [
        (
            name.replace("_", " "),
            f"{speed['windows_per_second']:.1f}",
            f"{speed['tokens_per_second']:.0f}",
            f"{speed['megabytes_per_second']:.1f}",
            f"{speed['step_seconds']:.3f}",
            f"{speed['waiting_for_data']:.1%}",
        )
        for name, speed in numbers["throughput"].items()
    ]
    return Table(("run", "windows/s", "latent tokens/s", "MB/s", "seconds a step", "waiting for data"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
