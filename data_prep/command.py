"""The verbs of the command line: arguments in, one summary out. `main` turns errors into messages and exit codes."""

import argparse
import json
import sys
from typing import Any

from tqdm import tqdm

from data_prep.contract.errors import IntegrityError, RefusedError, StorageError
from data_prep.contract.manifest import Codec
from data_prep.contract.storage import Storage
from data_prep.convert import convert
from data_prep.plan import DEFAULT_SHARD_BYTES, Options, Plan, make_plan
from data_prep.source import Source
from data_prep.well import open_well

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str]) -> int:
    """Run one verb; gives the exit code."""
    args = _parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except RefusedError as error:
        return _say(f"refused: {error}", REFUSED)
    except (IntegrityError, StorageError) as error:
        return _say(f"failed: {error}", FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; nothing is half-written, and the same command goes on from here", INTERRUPTED)
    return code


def _say(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    from data_prep.simulate.command import add_parser as add_simulate

    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Simulations to shards.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_simulate(verbs)
    _add_convert(verbs)
    return parser


def _add_convert(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser(
        "convert",
        help="turn a dataset folder of The Well into shards on any storage",
        description="Convert SOURCE to shards and a manifest at DEST. A stopped run goes on where it was.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or URL with data/{train,valid,test}/*.hdf5")
    parser.add_argument("destination", metavar="DEST", help="folder or URL, empty or with an unfinished conversion")
    parser.add_argument("--format", dest="layout", choices=("zarr", "webdataset"), required=True)
    parser.add_argument("--codec", choices=("blosc-lz4", "none"), help="default: blosc-lz4 for zarr, none for tars")
    parser.add_argument(
        "--shard-bytes",
        type=_byte_count,
        default=DEFAULT_SHARD_BYTES,
        metavar="N",
        help="size of a shard before compression, with K, M or G if wanted (default 256M)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older conversion at DEST")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    options = _options(args)
    source = _open_source(args.source)
    plan = make_plan(source.spec, source.trajectories, options)
    if args.dry_run:
        print(json.dumps(_describe_plan(plan)))
        return DONE
    choices = {"--format": options.layout, "--codec": options.codec, "--shard-bytes": str(options.shard_bytes)}
    command = ("convert", args.source, *(text for pair in choices.items() for text in pair))
    destination = Storage(args.destination)
    with tqdm(total=plan.num_bytes, desc="convert", unit="B", unit_scale=True, delay=0.2) as bar:
        outcome = convert(
            source,
            destination,
            plan=plan,
            command=command,
            overwrite=args.overwrite,
            advance=lambda num_bytes: _advance(bar, num_bytes),
        )
    if not outcome.num_written:
        print(f"{destination.url} is complete already", file=sys.stderr)
    summary = {
        "destination": destination.url,
        **_describe_plan(plan),
        "written_shards": outcome.num_written,
        "kept_shards": outcome.num_kept,
        "stored_bytes": sum(shard.bytes for shard in outcome.manifest.shards),
    }
    print(json.dumps(summary))
    return DONE


def _advance(bar: "tqdm[Any]", num_bytes: int) -> None:
    bar.update(num_bytes)


def _options(args: argparse.Namespace) -> Options:
    codec: Codec = args.codec or ("blosc-lz4" if args.layout == "zarr" else "none")
    if args.layout == "webdataset" and codec != "none":
        raise RefusedError(
            f"--codec {codec}: tar shards hold plain .npy members, so that webdataset's own decoder reads them; "
            "leave --codec away, or take --format zarr for compression"
        )
    return Options(layout=args.layout, codec=codec, shard_bytes=args.shard_bytes)


def _open_source(url: str) -> Source:
    source = open_well(url)
    for warning in source.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not any(trajectory.split == "train" for trajectory in source.trajectories):
        raise RefusedError(f"{url}: has no files in data/train; the statistics of a dataset come from there")
    return source


def _describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan in numbers."""
    return {
        "dataset": plan.spec.name,
        "layout": plan.options.layout,
        "codec": plan.options.codec,
        "trajectories": len(plan.trajectories),
        "frames": sum(trajectory.num_steps for trajectory in plan.trajectories),
        "shards": len(plan.units),
        "bytes": plan.num_bytes,
    }


def _byte_count(text: str) -> int:
    """`256M` -> 268435456."""
    factors = {"K": 2**10, "M": 2**20, "G": 2**30}
    digits, factor = (text[:-1], factors[text[-1].upper()]) if text[-1:].upper() in factors else (text, 1)
    if not digits.isdecimal() or not 1 <= int(digits) * factor <= 2**36:
        raise argparse.ArgumentTypeError(f"`{text}` is no size; give bytes, or a number with K, M or G, up to 64G")
    return int(digits) * factor
