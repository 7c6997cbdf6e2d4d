"""The command line of data preparation: `python -m data_prep VERB …`.

What people read goes to stderr, results go to stdout. Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted.
"""

import argparse
import sys

from data_prep.contract.errors import IntegrityError, RefusedError, StorageError
from data_prep.conversion import command as conversion_command
from data_prep.conversion.workers import WorkerLostError
from data_prep.inspection import command as inspection_command
from data_prep.simulate import command as simulate_command
from data_prep.terminal import FAILED, INTERRUPTED, REFUSED, say


def main(arguments: list[str]) -> int:
    """Run one verb; gives the exit code. Errors for people become one message."""
    args = parser().parse_args(arguments)
    try:
        code: int = args.run(args)
    except RefusedError as error:
        say(f"refused: {error}")
        return REFUSED
    except (IntegrityError, StorageError, WorkerLostError) as error:
        say(f"failed: {error}")
        return FAILED
    except KeyboardInterrupt:
        say("interrupted; nothing is half-written, and the same command goes on from here")
        return INTERRUPTED
    return code


def parser() -> argparse.ArgumentParser:
    """All verbs; each one's module gives its arguments and sets `run`."""
    result = argparse.ArgumentParser(prog="python -m data_prep", description="From simulations to shards.")
    verbs = result.add_subparsers(dest="verb", required=True, metavar="VERB")
    simulate_command.add_parser(verbs)
    conversion_command.add_parsers(verbs)
    inspection_command.add_parsers(verbs)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
