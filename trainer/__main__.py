"""Command line of the trainer: `python -m trainer VERB …`, alone or under torchrun, deepspeed or srun.

People's output goes to stderr, results to stdout. Exit codes: 0 done, 1 failed, 2 refused (usage, config, input),
3 stopped by a notice or Ctrl-C with a snapshot written, 130 interrupted elsewhere.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from trainer.config.dump import diff, dump_yaml
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig, StudyConfig
from trainer.errors import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    DataError,
    IntegrityError,
    RefusedError,
    StorageError,
    TrainingError,
)
from trainer.preemption import listen_for_notice


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and gives the exit code."""
    options = _parse(arguments)
    try:
        return int(options.run(options))
    except RefusedError as error:
        return _say(error, REFUSED)
    except (DataError, IntegrityError, StorageError, TrainingError) as error:
        return _say(error, FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; start the same command again to go on", INTERRUPTED)


def _train(options: argparse.Namespace) -> int:
    notice = listen_for_notice()  # before torch is imported: that takes seconds in which a signal would kill
    config = load_yaml(options.config, RunConfig, overrides=options.overrides)
    from trainer.profile import parse_steps
    from trainer.run import Wishes, train_run

    profiled = None if options.profile is None else parse_steps(options.profile)
    return train_run(config, notice, Wishes(accepted=options.accept, profiled=profiled))


def _check(options: argparse.Namespace) -> int:
    config = load_yaml(options.config, RunConfig, overrides=options.overrides)
    from trainer.check import check_run

    print(check_run(config))
    return DONE


def _stream(options: argparse.Namespace) -> int:
    notice = listen_for_notice()
    config = load_yaml(options.config, RunConfig, overrides=options.overrides)
    from trainer.sizing.command import Wishes, stream_run

    return stream_run(config, notice, Wishes(options.batches, options.step_seconds, options.simulate))


def _show(options: argparse.Namespace) -> int:
    config = load_yaml(options.config, RunConfig, overrides=options.overrides)
    if options.diff is None:
        print(dump_yaml(config, with_docs=options.docs), end="")
        return DONE
    for difference in diff(config, load_yaml(options.diff, RunConfig)):
        print(difference)
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from trainer.trained import make_folder, open_trained, write_pictures
    from trainer.world import prepare_device, world_from_environment

    world = world_from_environment()
    prepare_device(world.device)
    trained = open_trained(options.snapshot, world=world, overrides=options.overrides, average=options.average)
    if options.pictures is not None:
        make_folder(Path(options.pictures))
    if options.compression is not None:
        from trainer.rate_distortion import measure_compressions

        measured = measure_compressions(trained)
        print(measured.as_table(), file=sys.stderr)
        print(json.dumps(measured.as_json(), indent=2))
        if options.pictures is not None:
            (Path(options.pictures) / "rate_distortion.png").write_bytes(measured.as_picture())
        return DONE
    print(json.dumps(trained.scores(), indent=2))
    if options.pictures is not None:
        write_pictures(trained, Path(options.pictures))
    return DONE


def _export(options: argparse.Namespace) -> int:
    from trainer.export import export

    print(export(options.snapshot, options.destination, average=options.average), file=sys.stderr)
    return DONE


def _study(options: argparse.Namespace) -> int:
    config = load_yaml(options.config, StudyConfig, overrides=options.overrides)
    from trainer.study import plan_study, startable, train_all, write_config
    from trainer.study_report import check_study, report_study
    from trainer.world import ranks_for_this_machine

    runs = plan_study(config, folder=Path(options.config).parent)
    check_study(config, runs)
    if options.next:
        for run in startable(runs):
            print(f"train {write_config(run)}")
        return DONE
    train_all(runs, ranks=ranks_for_this_machine(config.ranks))
    print(report_study(config, runs))
    return DONE


def _report(options: argparse.Namespace) -> int:
    from trainer.run_report import report_runs

    page = Path(options.runs[0]) / "report.html" if options.out is None else Path(options.out)
    report_runs(options.runs, destination=page)
    print(page)
    return DONE


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand before and after options: argparse gives up on those after, so they are added here."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    wrong = [word for word in rest if word.startswith("-") or "=" not in word]
    if wrong or (rest and "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument(
        "--local_rank", help=argparse.SUPPRESS
    )  # the deepspeed launcher adds it; LOCAL_RANK says it too
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    train = _config_verb(verbs, "train", "run the training that CONFIG describes, or go on with it", _train)
    train.add_argument(
        "--accept", metavar="KEY", action="append", default=[], help="go on though KEY differs from the snapshot's"
    )
    _config_verb(verbs, "check", "what the run would need: parameters, memory, tokens, first windows", _check)
    train.add_argument("--profile", metavar="steps=A:B", help="trace these steps, and say where their time goes")
    stream = _config_verb(
        verbs, "stream", "how fast its batches come, without a model; or what a cluster would need", _stream
    )
    stream.add_argument("--batches", metavar="N", type=_positive, help="global batches: 50, or 10 to simulate")
    stream.add_argument("--step-seconds", metavar="S", type=_seconds, help="that a step takes beside its data")
    stream.add_argument(
        "--simulate",
        metavar="nodes=N[,ranks_per_node=8]",
        help="ask no shard: requests, bandwidth and cost of the plan",
    )
    show = _config_verb(verbs, "show", "the resolved config, or what differs from another", _show)
    show.add_argument("--diff", metavar="OTHER", help="list the keys in which OTHER differs")
    show.add_argument("--docs", action="store_true", help="with the meaning of each key")
    study = _config_verb(
        verbs, "study", "compare dynamics from scratch and from pretrained tokenisers, and report", _study
    )
    study.add_argument(
        "--next", action="store_true", help="train nothing: print what can be submitted now, a run on each line"
    )
    _evaluate_verb(verbs)
    export = verbs.add_parser("export", help="write a snapshot's weights alone, for other programs")
    export.add_argument("snapshot", metavar="SNAPSHOT", help="folder of one snapshot, or of a run: its newest")
    export.add_argument("destination", metavar="DEST", help="new folder or URL")
    _add_average(export)
    export.set_defaults(run=_export)
    report = verbs.add_parser("report", help="one page about runs, ended or going on: curves, speed, what differs")
    report.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run, its `output`")
    report.add_argument("--out", metavar="FILE", help="page to write; report.html in the first run's folder")
    report.set_defaults(run=_report)
    return parser


def _evaluate_verb(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    evaluate = verbs.add_parser("evaluate", help="score the last snapshot of a run on held-out data")
    evaluate.add_argument("snapshot", metavar="RUN", help="folder of the run, or of one snapshot")
    evaluate.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="keys of the run's config, `evaluation.split=test`"
    )
    evaluate.add_argument("--pictures", metavar="FOLDER", help="write pictures of rollouts and spectra there")
    evaluate.add_argument(
        "--compression", choices=("all",), help="of a tokeniser: the error at every compression of its declared set"
    )
    _add_average(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_average(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--average", action="store_true", help="the moving average of the weights, not the last ones")


def _config_verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=summary, description=summary)
    verb.add_argument("config", metavar="CONFIG", help="YAML file")
    verb.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help="keys to set, in order")
    verb.set_defaults(run=run)
    return verb


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _say(error: object, code: int) -> int:
    rank = "" if os.environ.get("WORLD_SIZE", "1") == "1" else f" [rank {os.environ.get('RANK', '?')}]"
    print(f"trainer{rank}: {error}", file=sys.stderr)
    return code


def _leave(code: int) -> None:
    """Ends the process now, with this code. In the second that Python takes to shut down, a late signal would kill it,
    and a thread of gloo's, which DeepSpeed keeps alive, may abort it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
