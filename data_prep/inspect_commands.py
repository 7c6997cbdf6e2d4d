"""The verbs that only look: `verify`, `show`, `statistics`."""

import argparse
import json
import math
from pathlib import Path
from typing import TypeAlias

import yaml

from data_prep.contract.errors import IntegrityError
from data_prep.contract.storage import Storage
from data_prep.prepared import PreparedSource, open_source
from data_prep.stats_yaml import compute_statistics, describe, shipped_disagreements
from data_prep.terminal import DONE, open_for_training, progress, say, warn
from data_prep.verify import verify

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

MAX_LINES = 20
"""Differences that are printed; the summary on stdout has all."""


def add_parsers(verbs: Verbs) -> None:
    """Add the three verbs."""
    _add_verify(verbs)
    _add_show(verbs)
    _add_statistics(verbs)


def _add_verify(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "verify",
        help="re-read every shard against its checksum, the index and the source",
        description="Re-read DEST. Lists what is wrong and ends with 1 if anything is.",
    )
    parser.add_argument("destination", metavar="DEST", help="folder or URL of a prepared dataset")
    parser.add_argument("--against", metavar="SOURCE", help="compare every value with the source, bit by bit")
    parser.add_argument("--shard", metavar="PATH", help="look at this one only")
    parser.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    source = open_source(args.against) if args.against else None
    destination = Storage(args.destination)
    with progress("verify") as bar:
        report = verify(destination, source=source, shard_path=args.shard, advance=bar.advance)
    warn([f"{destination.locate(path)}: is not part of the dataset" for path in report.unexpected])
    summary = {
        "destination": destination.url,
        "against": args.against,
        "shards": report.num_shards,
        "metadata_objects": report.num_metadata,
        "records": report.num_records,
        "differences": report.differences,
    }
    print(json.dumps(summary))
    if report.differences:
        lines = "\n".join(f"  {line}" for line in report.differences[:MAX_LINES])
        more = f"\n  … and {len(report.differences) - MAX_LINES} more" if len(report.differences) > MAX_LINES else ""
        raise IntegrityError(f"{destination.url}: {len(report.differences)} differences:\n{lines}{more}")
    return DONE


def _add_show(verbs: Verbs) -> None:
    parser = verbs.add_parser("show", help="say what a dataset contains, before or after conversion")
    parser.add_argument("source", metavar="SOURCE", help="folder or URL, of The Well's format or prepared")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw its fields over time")
    parser.set_defaults(run=_show)


def _show(args: argparse.Namespace) -> int:
    from data_prep import show  # here, since importing matplotlib takes a second

    if args.picture:
        show.refuse_picture(args.picture)
    source = open_source(args.source)
    print(show.describe_source(source))
    if args.picture:
        show.save_picture(source, args.picture)
        say(f"wrote {args.picture}")
    return DONE


def _add_statistics(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "statistics",
        help="print mean, std and rms of fields and of their change, and compare a shipped stats.yaml",
        description="Statistics of the train split as YAML, in the form of The Well's stats.yaml.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or URL, of The Well's format or prepared")
    parser.set_defaults(run=_statistics)


def _statistics(args: argparse.Namespace) -> int:
    source = open_for_training(args.source)
    if isinstance(source, PreparedSource):
        statistics = source.manifest.statistics
    else:
        total = 4 * math.prod(source.spec.frame_shape)
        total *= sum(run.num_steps for run in source.trajectories if run.split == "train")
        with progress("statistics", num_bytes=total) as bar:
            statistics = compute_statistics(source, bar.advance)
        warn(shipped_disagreements(Storage(args.source), source.spec, statistics))
    print(yaml.safe_dump(describe(source.spec, statistics), sort_keys=False), end="")
    return DONE
