"""The verbs `convert` and `finish`: from a command line to a prepared dataset, and its summary as JSON on stdout."""

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import LeftOut, Manifest, NotFinite
from data_prep.contract.storage import Storage
from data_prep.conversion.convert import Outcome, convert, finish
from data_prep.conversion.destination import refuse_folders, refuse_place
from data_prep.conversion.journal import Work
from data_prep.conversion.not_finite import PartialSource, find_not_finite, forget_not_finite, known_left_out
from data_prep.conversion.options import add_options, options_of, refuse_choices, spelled
from data_prep.layouts.build import metadata_of
from data_prep.layouts.reference import origin_of
from data_prep.planning.estimate import estimate, table
from data_prep.planning.part import Part
from data_prep.planning.plan import Plan, make_plan
from data_prep.sources.corpus_source import CorpusSource
from data_prep.sources.prepared import PreparedSource
from data_prep.sources.protocol import Source
from data_prep.sources.stats_yaml import shipped_disagreements
from data_prep.terminal import DONE, open_for_training, progress, say, warn

MAX_WORKERS, MAX_PARTS = 512, 10**6
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_parsers(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    _add_convert(verbs)
    _add_finish(verbs)


def _add_convert(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "convert",
        help="turn a dataset folder of The Well into shards on any storage",
        description="Convert SOURCE to shards and a manifest at DEST. A stopped run goes on where it was.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or URL with data/{train,valid,test}/*.hdf5")
    parser.add_argument("destination", metavar="DEST", help="folder or URL, empty or with an unfinished conversion")
    add_options(parser)
    parser.add_argument(
        "--workers", type=_worker_count, default=1, metavar="N", help="processes that share the work (1)"
    )
    parser.add_argument(
        "--part",
        type=_part,
        default=Part(),
        metavar="K/N",
        help="of N machines that share the work, this is number K = 0 … N-1; the last to end writes the manifest",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older conversion at DEST")
    parser.add_argument(
        "--dry-run", action="store_true", help="print shards, bytes, requests and their cost, and write nothing"
    )
    parser.set_defaults(run=_convert)


def _add_finish(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "finish",
        help="join the parts that several machines made",
        description="Write the manifest of DEST when all its parts are done; say which are not when they are not. "
        "The part that ends last does this by itself.",
    )
    parser.add_argument("destination", metavar="DEST", help="folder or URL that `convert --part` wrote to")
    parser.set_defaults(run=_finish)


def _convert(args: argparse.Namespace) -> int:
    if args.overwrite and args.part.count > 1:
        raise RefusedError("--overwrite: would remove what the other parts make; give an empty destination")
    refuse_choices(args)
    destination = Storage(args.destination)
    refuse_place(destination, Storage(args.source))
    with destination.leaving_no_folder():
        return _convert_to(destination, args)


def _convert_to(destination: Storage, args: argparse.Namespace) -> int:
    whole = open_for_training(args.source)
    if isinstance(whole, CorpusSource):
        refuse_folders(destination, whole.folders())
    options = options_of(args, whole)
    source, left_out = _remaining(whole, destination, args)
    origin = origin_of(whole, destination) if options.layout == "reference" else None
    plan = make_plan(source.spec, source.trajectories, options, origin)
    if args.dry_run:
        return _show_plan(plan, source, args)
    work = Work(
        options=options,
        spec=source.spec,
        trajectories=source.trajectories,
        files=source.files,
        command=("convert", args.source, *spelled(options)),
        num_parts=args.part.count,
        left_out=left_out,
        rounding=whole.manifest.rounding if isinstance(whole, PreparedSource) else None,
        origin=origin,
    )
    part_bytes = sum(plan.unit_bytes(unit) for unit in args.part.units_of(plan))
    with progress("convert", num_bytes=part_bytes) as bar:
        outcome = convert(
            source,
            destination,
            work=work,
            part=args.part,
            num_workers=args.workers,
            overwrite=args.overwrite,
            bar=bar,
        )
    _report(destination, plan, outcome)
    if outcome.manifest:
        warn(shipped_disagreements(Storage(args.source), plan.spec, outcome.manifest.statistics))
    return DONE


def _show_plan(plan: Plan, source: Source, args: argparse.Namespace) -> int:
    """What `--dry-run` is for: a table for people, and the same as JSON."""
    found = estimate(
        plan,
        source_bytes=sum(file.bytes for file in source.files),
        num_metadata=len(metadata_of(plan)),
        from_store=not Storage(args.source).is_local,
        to_store=not Storage(args.destination).is_local,
    )
    say(table(plan, found))
    print(json.dumps(_describe_plan(plan) | found.summary()))
    return DONE


def _finish(args: argparse.Namespace) -> int:
    destination = Storage(args.destination)
    manifest = finish(destination)
    summary = {
        "destination": destination.url,
        "dataset": manifest.dataset.name,
        "finished": True,
        "stored_bytes": sum(shard.bytes for shard in manifest.shards),
    }
    print(json.dumps(summary))
    return DONE


def _report(destination: Storage, plan: Plan, outcome: Outcome) -> None:
    """The summary on stdout, and in words what is special about it."""
    manifest = outcome.manifest
    if manifest is None:
        say(f"{destination.url}: this part is done; the part that ends last writes the manifest")
    elif not outcome.num_written:
        say(f"{destination.url} is complete already")
    summary = {
        "destination": destination.url,
        **_describe_plan(plan),
        "written_shards": outcome.num_written,
        "kept_shards": outcome.num_kept,
        "finished": manifest is not None,
        "left_out": [run.source for run in manifest.provenance.left_out] if manifest else None,
        "not_finite": sum(count.nan + count.infinite for count in _kept(manifest)) if manifest else None,
        "stored_bytes": sum(shard.bytes for shard in manifest.shards) if manifest else None,
    }
    print(json.dumps(summary))


def _remaining(source: Source, destination: Storage, args: argparse.Namespace) -> tuple[Source, tuple[LeftOut, ...]]:
    """The source without what `--not-finite skip` leaves out. Raises RefusedError when nothing is left to train on."""
    if args.not_finite != "skip":
        return source, ()
    if args.dry_run:
        say("the plan counts every trajectory: which ones `--not-finite skip` leaves out, only their values tell")
        return source, ()
    num_bytes = sum(run.num_steps for run in source.trajectories) * 4 * math.prod(source.spec.frame_shape)
    with progress("look for values that are not finite", num_bytes=num_bytes) as bar:
        left_out = None if args.overwrite else known_left_out(destination)
        if left_out is None:
            left_out = find_not_finite(source, destination, part=args.part, num_workers=args.workers, bar=bar)
    remaining = PartialSource(source, left_out)
    warn(remaining.warnings[len(source.warnings) :])
    if not any(run.split == "train" for run in remaining.trajectories):
        if args.part.count == 1:
            forget_not_finite(destination)
        raise RefusedError(
            f"{args.source}: every trajectory of its train split has values that are not finite; repair some, "
            "or convert with `--not-finite keep`"
        )
    return remaining, left_out


def _kept(manifest: Manifest) -> Iterator[NotFinite]:
    return (count for run in manifest.trajectories for count in run.not_finite.values())


def _describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan in numbers."""
    return {
        "dataset": plan.spec.name,
        "layout": plan.options.layout,
        "codec": plan.options.codec,
        "tile": plan.tile,
        "kept_bits": plan.options.kept_bits,
        "trajectories": len(plan.trajectories),
        "frames": sum(trajectory.num_steps for trajectory in plan.trajectories),
        "shards": len(plan.units),
        "bytes": plan.num_bytes,
    }


def _worker_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of processes; give 1 to {MAX_WORKERS}")
    return int(text)


def _part(text: str) -> Part:
    """`0/3` -> the first of three."""
    number, _, count = text.partition("/")
    if not number.isdecimal() or not count.isdecimal() or not int(number) < int(count) <= MAX_PARTS:
        raise argparse.ArgumentTypeError(
            f"`{text}` is no part; give `K/N`, the number of this part and of all, as in `0/3`, `1/3` and `2/3`"
        )
    return Part(int(number), int(count))
