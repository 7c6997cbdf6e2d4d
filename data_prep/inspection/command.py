"""The verbs that only look: `verify`, `show`, `statistics`."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import yaml

from data_prep.contract.errors import IntegrityError
from data_prep.contract.manifest import SPLITS, Split
from data_prep.contract.storage import Storage
from data_prep.conversion.scan import Scan, scan
from data_prep.inspection.show import describe_source
from data_prep.inspection.verify import verify
from data_prep.sources.prepared import PreparedSource, open_source
from data_prep.sources.protocol import Source
from data_prep.sources.reading import describe_counts
from data_prep.sources.stats_yaml import describe, shipped_disagreements
from data_prep.terminal import DONE, open_for_training, progress, say, visible, warn

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
    parser = verbs.add_parser(
        "show",
        help="say what a dataset contains and what is wrong with it, before or after conversion",
        description="Say what SOURCE contains and what is wrong with it, by its headers alone or, with --scan, by all "
        "its values.",
    )
    parser.add_argument("source", metavar="SOURCE", help="whatever `convert` takes, or a prepared dataset")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw its fields over time")
    parser.add_argument(
        "--scan", action="store_true", help="read all values: NaN, constant channels, copies, statistics"
    )
    parser.set_defaults(run=_show)


def _show(args: argparse.Namespace) -> int:
    if args.picture:
        from data_prep.inspection.contact_sheet import (  # importing matplotlib takes a second
            refuse_picture,
            save_picture,
        )

        refuse_picture(args.picture)
    source = open_source(args.source)
    found, disagreements = _scanned(args, source) if args.scan else (None, [])
    print(visible(describe_source(source, found, disagreements=disagreements)))
    if args.picture:
        save_picture(source, args.picture)
        say(f"wrote {args.picture}")
    return DONE


def _scanned(args: argparse.Namespace, source: Source) -> tuple[Scan, list[str]]:
    """(what the values are, how a shipped stats.yaml differs)."""
    with progress("scan", num_bytes=_num_bytes(source, SPLITS)) as bar:
        found = scan(source, advance=bar.advance)
    return found, shipped_disagreements(Storage(args.source), source.spec, found.statistics)


def _num_bytes(source: Source, splits: Sequence[Split]) -> int:
    num_frames = sum(run.num_steps for run in source.trajectories if run.split in splits)
    return 4 * num_frames * math.prod(source.spec.frame_shape)


def _add_statistics(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "statistics",
        help="print mean, std and rms of fields and of their change, and compare a shipped stats.yaml",
        description="Statistics of the train split as YAML, in the form of The Well's stats.yaml.",
    )
    parser.add_argument("source", metavar="SOURCE", help="whatever `convert` takes, or a prepared dataset")
    parser.set_defaults(run=_statistics)


def _statistics(args: argparse.Namespace) -> int:
    source = open_for_training(args.source)
    if isinstance(source, PreparedSource):
        statistics = source.manifest.statistics
    else:
        with progress("statistics", num_bytes=_num_bytes(source, ["train"])) as bar:
            found = scan(source, splits=["train"], advance=bar.advance)
        statistics = found.statistics
        spoiled = [run for run in found.runs if run.not_finite]
        warn([f"{run.run.name}: left out of the statistics: {describe_counts(run.not_finite)}" for run in spoiled])
        warn(shipped_disagreements(Storage(args.source), source.spec, statistics))
    print(yaml.safe_dump(describe(source.spec, statistics), sort_keys=False), end="")
    return DONE
