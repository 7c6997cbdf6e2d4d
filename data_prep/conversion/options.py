"""What a person chooses about a conversion: options of the command line <-> `Options`."""

import argparse
from typing import get_args

from data_prep.contract.errors import RefusedError
from data_prep.contract.manifest import MANTISSA_BITS, Codec
from data_prep.numbers.rounding import KeptBits, kept_of
from data_prep.planning.plan import DEFAULT_SHARD_BYTES, DEFAULT_TILE_BYTES, NotFinitePolicy, Options
from data_prep.sources.prepared import PreparedSource
from data_prep.sources.protocol import Source


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what changes the shards."""
    layouts = parser.add_mutually_exclusive_group(required=True)
    layouts.add_argument("--format", dest="layout", choices=("zarr", "webdataset"))
    layouts.add_argument(
        "--reference",
        dest="layout",
        action="store_const",
        const="reference",
        help="write a manifest alone, that points into SOURCE's own files; they must be contiguous float32",
    )
    parser.add_argument("--codec", choices=get_args(Codec), help="default: blosc-lz4 for zarr, none for tars")
    parser.add_argument(
        "--shard-bytes",
        type=_byte_count,
        metavar="N",
        help="size of a shard before compression, with K, M or G if wanted (default 256M)",
    )
    parser.add_argument(
        "--not-finite",
        choices=get_args(NotFinitePolicy),
        default="refuse",
        help="NaN and infinite values: refuse (default), skip their trajectories (reads SOURCE twice), or keep them "
        "as they are, counted in the manifest and masked in training",
    )
    parser.add_argument(
        "--tile-bytes",
        type=_byte_count,
        metavar="N",
        help="cut frames that take more into tiles; of zarr alone (default 8M)",
    )
    parser.add_argument(
        "--keep-bits",
        type=_kept_bits,
        metavar="N",
        help="round to N of 23 mantissa bits, or FIELD=N,… for some fields; what it costs stands in the manifest",
    )


def refuse_choices(args: argparse.Namespace) -> None:
    """Raises RefusedError for options that do not go together; asked before the source is read."""
    codec = _codec(args)
    if args.layout == "reference":
        given = {
            "--codec": args.codec,
            "--shard-bytes": args.shard_bytes,
            "--tile-bytes": args.tile_bytes,
            "--keep-bits": args.keep_bits,
        }
        if chosen := [option for option, value in given.items() if value is not None]:
            raise RefusedError(f"{chosen[0]}: --reference leaves values where and as they are; take --format zarr")
    if args.layout == "webdataset" and codec != "none":
        raise RefusedError(
            f"--codec {codec}: tar shards hold plain .npy members, so that webdataset's own decoder reads them; "
            "leave --codec away, or take --format zarr for compression"
        )
    if args.layout == "webdataset" and args.tile_bytes is not None:
        raise RefusedError(f"--tile-bytes {args.tile_bytes}: samples of tars are whole arrays; take --format zarr")
    if args.keep_bits is not None and codec == "none":
        raise RefusedError(
            "--keep-bits: rounded values are no smaller without compression; take --format zarr with a blosc codec"
        )


def options_of(args: argparse.Namespace, source: Source) -> Options:
    """Raises RefusedError for bits of a field that the source does not have."""
    return Options(
        layout=args.layout,
        codec=_codec(args),
        shard_bytes=args.shard_bytes or DEFAULT_SHARD_BYTES,
        not_finite=args.not_finite,
        tile_bytes=args.tile_bytes or DEFAULT_TILE_BYTES,
        kept_bits=_kept_of(args.keep_bits, source),
    )


def spelled(options: Options) -> tuple[str, ...]:
    """The options as they can be given again; those left at what they always are but for the first three."""
    choices = {"--format": options.layout, "--codec": options.codec, "--shard-bytes": str(options.shard_bytes)}
    flags = ("--reference",) if options.layout == "reference" else ()
    if flags:
        choices.clear()
    if options.not_finite != "refuse":
        choices["--not-finite"] = options.not_finite
    if options.tile_bytes != DEFAULT_TILE_BYTES:
        choices["--tile-bytes"] = str(options.tile_bytes)
    if options.kept_bits:
        choices["--keep-bits"] = _spelled_bits(options.kept_bits)
    return (*flags, *(text for pair in choices.items() for text in pair))


def _spelled_bits(kept: KeptBits) -> str:
    return ",".join(f"{name}={bits}" for name, bits in kept.items())


def _codec(args: argparse.Namespace) -> Codec:
    codec: Codec = args.codec or ("blosc-lz4" if args.layout == "zarr" else "none")
    return codec


def _kept_of(wanted: int | KeptBits | None, source: Source) -> KeptBits:
    """Kept bits by field: as given, or as the source was rounded already, since that can only be passed on."""
    before = source.manifest.kept_fields if isinstance(source, PreparedSource) else {}
    if before and wanted is not None:
        raise RefusedError(
            f"--keep-bits: {source.url} is rounded already ({_spelled_bits(before)}); convert its own source instead"
        )
    return before or kept_of(source.spec, wanted)


def _kept_bits(text: str) -> int | KeptBits:
    """`10` -> 10; `density=10,velocity=12` -> a map."""
    most = MANTISSA_BITS - 1
    pairs = [pair.partition("=")[::2] for pair in text.split(",")] if "=" in text else [("", text)]
    for name, bits in pairs:
        if not bits.isdecimal() or not 1 <= int(bits) <= most or bool(name) != ("=" in text):
            raise argparse.ArgumentTypeError(
                f"`{text}`: give a number from 1 to {most}, or FIELD=NUMBER with commas between; "
                f"all {MANTISSA_BITS} bits are kept without this option"
            )
    kept = {name: int(bits) for name, bits in pairs}
    if len(kept) < len(pairs):
        raise argparse.ArgumentTypeError(f"`{text}`: names a field twice")
    return kept if "=" in text else int(text)


def _byte_count(text: str) -> int:
    """`256M` -> 268435456."""
    factors = {"K": 2**10, "M": 2**20, "G": 2**30}
    digits, factor = (text[:-1], factors[text[-1].upper()]) if text[-1:].upper() in factors else (text, 1)
    if not digits.isdecimal() or not 1 <= int(digits) * factor <= 2**36:
        raise argparse.ArgumentTypeError(f"`{text}` is no size; give bytes, or a number with K, M or G, up to 64G")
    return int(digits) * factor
