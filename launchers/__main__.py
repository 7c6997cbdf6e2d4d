"""The command line: render, submit, status, logs, cancel. Results on stdout; exit 0 done, 1 failed, 2 refused."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from launchers.cluster import Cluster, KubernetesTarget, LocalTarget, SlurmTarget, SshTarget
from launchers.job import Launcher, SchedulerError
from launchers.kubernetes import KubernetesLauncher
from launchers.local import LocalLauncher
from launchers.script import check_preparation, is_preparation
from launchers.slurm import SlurmLauncher
from launchers.ssh import SshLauncher
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.config.share import micro_batches_of_rank
from trainer.errors import DONE, FAILED, INTERRUPTED, REFUSED, RefusedError

DESCRIPTION = "Starts training, or the preparation of data, where CLUSTER says, and watches it."
EPILOG = (
    "render and submit: … CLUSTER [a.b=c …] -- train CONFIG [a.b=c …], "
    "or … -- data_prep convert SOURCE DEST --format zarr"
)


def main(arguments: Sequence[str]) -> int:
    try:
        return _run(arguments)
    except RefusedError as error:
        print(f"launchers: {error}", file=sys.stderr)
        return REFUSED
    except SchedulerError as error:
        print(f"launchers: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(
            "launchers: interrupted; nothing was started, unless it was just being handed to a scheduler: ask that",
            file=sys.stderr,
        )
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    before, after = _split(arguments)
    found = _parser().parse_args(before)
    cluster = load_yaml(found.cluster, Cluster, overrides=found.overrides)
    _refuse_odd_text(after)
    launcher = launcher_for(cluster, current=Path.cwd())
    if found.verb in ("render", "submit"):
        if is_preparation(after):
            check_preparation(after)
        else:
            _check_training(after, launcher.checkout, ranks=cluster.target.num_ranks)
        text = launcher.render(after) if found.verb == "render" else launcher.submit(after) + "\n"
        sys.stdout.write(text)
        return DONE
    if after:
        raise RefusedError(f"{found.verb} takes nothing after `--`; found {after[0]!r}")
    return _ask(launcher, found)


def _ask(launcher: Launcher, found: argparse.Namespace) -> int:
    """The verbs about one job."""
    if found.verb == "status":
        print(launcher.status(found.job).to_json())
    elif found.verb == "cancel":
        launcher.cancel(found.job)
        print(f"job {found.job} was asked to take a snapshot and end", file=sys.stderr)
    else:
        launcher.logs(found.job, rank=found.rank, lines=found.lines, follow=found.follow)
    return DONE


def launcher_for(cluster: Cluster, *, current: Path) -> Launcher:
    """The launcher of this cluster's kind; `current` is where a null working directory is."""
    match cluster.target:
        case LocalTarget() as target:
            return LocalLauncher(cluster, target, current=current)
        case SshTarget() as target:
            return SshLauncher(cluster, target, current=current)
        case SlurmTarget() as target:
            return SlurmLauncher(cluster, target, current=current)
        case KubernetesTarget() as target:
            return KubernetesLauncher(cluster, target, current=current)


def _check_training(arguments: Sequence[str], folder: Path, *, ranks: int) -> None:
    """What cannot run is refused here, not hours later when the job leaves the queue."""
    if list(arguments[:1]) != ["train"]:
        found = repr(arguments[0]) if arguments else "nothing"
        raise RefusedError(
            f"after `--`: found {found}, expected `train CONFIG.yaml` or `data_prep convert …`; the other verbs take "
            "one process, run them where you are: `python -m trainer …`"
        )
    if len(arguments) < 2:
        raise RefusedError("after `--`: `train` needs a config, as in `-- train CONFIG.yaml`")
    overrides = [text for text in arguments[2:] if text[:1] != "-"]
    config = load_yaml(folder / arguments[1], RunConfig, overrides=overrides)
    micro_batches_of_rank(
        config.data.batch_size,
        world_size=ranks,
        micro_batch_size=config.engine.micro_batch_size,
        parts=config.data.parts_per_step,
    )


def _refuse_odd_text(arguments: Sequence[str]) -> None:
    """Python holds bytes that are no UTF-8 as text that cannot be written."""
    for text in arguments:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RefusedError(f"after `--`: {text!r} is no UTF-8, in which scripts are written; rename it") from None


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before and after the first `--`."""
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:place]), list(arguments[place + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launchers", description=DESCRIPTION, epilog=EPILOG)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("render", "print the job script, exactly as submit submits it"),
        ("submit", "start the job and print its id"),
        ("status", "print the job's state as one line of JSON"),
        ("logs", "print the ends of the job's logs"),
        ("cancel", "ask the ranks to take a snapshot and end"),
    ):
        _describe(verbs.add_parser(verb, help=text, description=text, epilog=EPILOG), verb)
    return parser


def _describe(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument("cluster", metavar="CLUSTER", help="YAML file, such as those in configs/clusters")
    if verb not in ("render", "submit"):
        parser.add_argument("job", metavar="JOB", help="id that submit printed")
    if verb == "logs":
        parser.add_argument("--rank", type=int, help="this rank's log alone")
        parser.add_argument("--lines", type=int, default=20, help="of each log (20)")
        parser.add_argument("--follow", action="store_true", help="go on printing what is written")
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", default=[], help="settings that replace those of CLUSTER"
    )


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what was begun is taken back
        signal.signal(ending, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
