"""The verb `convert`: from a command line to a prepared dataset, and its summary as JSON on stdout."""

import argparse
import json
from typing import Any, TypeAlias, get_args

from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import Codec
from data_prep.contract.storage import Storage
from data_prep.convert import convert
from data_prep.destination import refuse_place
from data_prep.plan import DEFAULT_SHARD_BYTES, Options, Plan, make_plan
from data_prep.stats_yaml import shipped_disagreements
from data_prep.terminal import DONE, open_for_training, progress, say, warn

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_parser(verbs: Verbs) -> None:
    """Add `convert` to the verbs."""
    parser = verbs.add_parser(
        "convert",
        help="turn a dataset folder of The Well into shards on any storage",
        description="Convert SOURCE to shards and a manifest at DEST. A stopped run goes on where it was.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or URL with data/{train,valid,test}/*.hdf5")
    parser.add_argument("destination", metavar="DEST", help="folder or URL, empty or with an unfinished conversion")
    parser.add_argument("--format", dest="layout", choices=("zarr", "webdataset"), required=True)
    parser.add_argument("--codec", choices=get_args(Codec), help="default: blosc-lz4 for zarr, none for tars")
    parser.add_argument(
        "--shard-bytes",
        type=_byte_count,
        default=DEFAULT_SHARD_BYTES,
        metavar="N",
        help="size of a shard before compression, with K, M or G if wanted (default 256M)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older conversion at DEST")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert, print the summary as JSON. Raises RefusedError."""
    options = _options(args)
    destination = Storage(args.destination)
    refuse_place(destination, Storage(args.source))
    source = open_for_training(args.source)
    plan = make_plan(source.spec, source.trajectories, options)
    if args.dry_run:
        print(json.dumps(_describe_plan(plan)))
        return DONE
    choices = {"--format": options.layout, "--codec": options.codec, "--shard-bytes": str(options.shard_bytes)}
    command = ("convert", args.source, *(text for pair in choices.items() for text in pair))
    with progress("convert", num_bytes=plan.num_bytes) as advance:
        outcome = convert(source, destination, plan=plan, command=command, overwrite=args.overwrite, advance=advance)
    if not outcome.num_written:
        say(f"{destination.url} is complete already")
    summary = {
        "destination": destination.url,
        **_describe_plan(plan),
        "written_shards": outcome.num_written,
        "kept_shards": outcome.num_kept,
        "stored_bytes": sum(shard.bytes for shard in outcome.manifest.shards),
    }
    warn(shipped_disagreements(Storage(args.source), plan.spec, outcome.manifest.statistics))
    print(json.dumps(summary))
    return DONE


def _options(args: argparse.Namespace) -> Options:
    codec: Codec = args.codec or ("blosc-lz4" if args.layout == "zarr" else "none")
    if args.layout == "webdataset" and codec != "none":
        raise RefusedError(
            f"--codec {codec}: tar shards hold plain .npy members, so that webdataset's own decoder reads them; "
            "leave --codec away, or take --format zarr for compression"
        )
    return Options(layout=args.layout, codec=codec, shard_bytes=args.shard_bytes)


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
