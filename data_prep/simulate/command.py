"""The verb `simulate`: from a command line to a corpus, and its summary as JSON on stdout."""

import argparse
import json
import math
import os
from concurrent.futures.process import BrokenProcessPool
from difflib import get_close_matches
from pathlib import Path

from data_prep.contract.errors import RefusedError
from data_prep.simulate.case import SPLITS, Split, System
from data_prep.simulate.corpus import write_corpus
from data_prep.simulate.plan import Corpus
from data_prep.simulate.systems import SYSTEMS
from data_prep.simulate.workers import SolverError
from data_prep.terminal import DONE, FAILED, say

FEWEST_POINTS, MOST_POINTS = 8, 4096
"""Grid points along one axis: fewer hold no shock or wave, more are beyond these solvers."""
FEWEST_FRAMES = 2
FEWEST_HELD_OUT = 2
HELD_OUT_SHARE = 8
DEFAULT_FRAMES = 40
DEFAULT_PARAMETER_SETS = 4
MOST_REFINE = 8


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `simulate` to the verbs; `run` is its action."""
    systems = "\n".join(f"  {name:38} {system.about}" for name, system in SYSTEMS.items())
    parser = subparsers.add_parser(
        "simulate",
        help="write simulations of our own in The Well's HDF5 format",
        description="Simulate a dataset into OUT/SYSTEM. A broken run goes on where it stopped, to the same bytes.",
        epilog=f"systems:\n{systems}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("system", metavar="SYSTEM", help="one of those listed below")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of datasets")
    _add_size_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other trajectories (default 0)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core); any give the same")
    parser.set_defaults(run=run)


def _add_size_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trajectories", type=int, metavar="N", required=True, help="trajectories of the train split")
    for split in ("valid", "test"):
        parser.add_argument(
            f"--{split}",
            type=int,
            metavar="N",
            help=f"trajectories of the {split} split (default: an eighth of train, at least 2)",
        )
    parser.add_argument(
        "--resolution", type=int, nargs="+", metavar="N", help="points along each axis, or one number for all"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", default=DEFAULT_FRAMES, help="stored frames, the first included (default 40)"
    )
    parser.add_argument(
        "--frame-interval", type=float, metavar="TIME", help="time between frames (default: the system's)"
    )
    parser.add_argument(
        "--refine",
        type=int,
        metavar="N",
        default=1,
        help="solve on a grid so many times finer and average down (default 1)",
    )
    parser.add_argument(
        "--parameter-sets",
        type=int,
        metavar="N",
        help="files by split, each of other parameters (default 4, or fewer if needed)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the corpus, print its summary; gives the exit code. Raises RefusedError for what cannot be asked."""
    corpus = corpus_of(args)
    num_workers = (os.cpu_count() or 1) if args.workers is None else args.workers
    _check("--workers", num_workers, low=1, high=1024)
    try:
        written = write_corpus(corpus, args.out, num_workers=num_workers)
    except BrokenProcessPool:
        say("failed: a worker process died, perhaps of too little memory; run the same command with fewer --workers")
        return FAILED
    except SolverError as error:
        say(f"failed: {error}; try --refine 2 or another --seed")
        return FAILED
    summary = {
        "dataset": str(written.folder),
        **corpus.settings,
        "new_files": written.num_new_files,
        "kept_files": written.num_kept_files,
        "field_bytes": corpus.num_bytes,
    }
    print(json.dumps(summary))
    return DONE


def corpus_of(args: argparse.Namespace) -> Corpus:
    """The settings that a command line asks for, defaults filled in. Raises RefusedError."""
    system = _system(args.system)
    num_trajectories = _num_trajectories(args)
    num_sets = args.parameter_sets
    if num_sets is None:
        num_sets = min(DEFAULT_PARAMETER_SETS, len(system.parameter_sets), args.trajectories)
    _check("--parameter-sets", num_sets, low=1, high=min(len(system.parameter_sets), args.trajectories))
    _check("--steps", args.steps, low=FEWEST_FRAMES, high=100_000)
    _check("--refine", args.refine, low=1, high=MOST_REFINE)
    _check("--seed", args.seed, low=0, high=2**63 - 1)
    return Corpus(
        system=system,
        num_trajectories=num_trajectories,
        resolution=_resolution(args.resolution, system),
        num_frames=args.steps,
        frame_interval=_frame_interval(args.frame_interval, system),
        refine=args.refine,
        num_parameter_sets=num_sets,
        seed=args.seed,
    )


def _system(name: str) -> System:
    if name in SYSTEMS:
        return SYSTEMS[name]
    near = get_close_matches(name, SYSTEMS, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise RefusedError(f"SYSTEM {name!r} is not known; {hint}There are: {', '.join(SYSTEMS)}")


def _num_trajectories(args: argparse.Namespace) -> dict[Split, int]:
    held_out = max(FEWEST_HELD_OUT, args.trajectories // HELD_OUT_SHARE)
    asked = {"train": args.trajectories, "valid": args.valid, "test": args.test}
    counts: dict[Split, int] = {split: held_out if asked[split] is None else asked[split] for split in SPLITS}
    for split, count in counts.items():
        _check("--trajectories" if split == "train" else f"--{split}", count, low=1, high=10_000_000)
    return counts


def _resolution(asked: list[int] | None, system: System) -> tuple[int, ...]:
    num_axes = len(system.axes)
    resolution = system.default_resolution if asked is None else tuple(asked)
    if len(resolution) == 1:
        resolution *= num_axes
    if len(resolution) != num_axes:
        raise RefusedError(
            f"--resolution {_spaced(resolution)}: {system.name} has {num_axes} axes; give 1 or {num_axes}"
        )
    for points in resolution:
        _check("--resolution", points, low=FEWEST_POINTS, high=MOST_POINTS)
    return resolution


def _frame_interval(asked: float | None, system: System) -> float:
    interval = system.frame_interval if asked is None else asked
    if not (math.isfinite(interval) and interval > 0.0):
        raise RefusedError(f"--frame-interval {interval}: give a time above 0 (default {system.frame_interval})")
    return interval


def _check(option: str, value: int, *, low: int, high: int) -> None:
    if not low <= value <= high:
        raise RefusedError(f"{option} {value}: give a whole number from {low} to {high}")


def _spaced(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))
