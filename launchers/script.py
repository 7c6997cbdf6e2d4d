"""The parts of a job script that every launcher shares. Pure text; every value is quoted for the shell."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from launchers.cluster import Cluster
from trainer.errors import RefusedError

HEADER = "# Rendered by `python -m launchers render`; `submit` submits exactly this text."
_VERB = re.compile(r"[a-z]+")


def working_directory(cluster: Cluster, current: Path) -> Path:
    """The absolute folder that the job starts in."""
    return current if cluster.working_directory is None else current / cluster.working_directory


def log_folder(cluster: Cluster, folder: Path) -> Path:
    """The absolute folder of scripts, logs and records."""
    return folder / cluster.logs


def job_prefix(logs: Path, name: str) -> str:
    """Beginning of the names of a job's files, for the shell; the number is known when it starts, 0 by hand."""
    return shlex.quote(str(logs / name)) + '-"${LAUNCH_JOB:-0}"'


def is_preparation(arguments: Sequence[str]) -> bool:
    """Whether a job prepares data: `data_prep convert …`, and not a verb of the trainer."""
    return list(arguments[:1]) == ["data_prep"]


def training_command(cluster: Cluster, arguments: Sequence[str]) -> str:
    """`python -m trainer VERB …`, quoted. Raises RefusedError where no verb comes first."""
    if not arguments or _VERB.fullmatch(arguments[0]) is None:
        found = repr(arguments[0]) if arguments else "nothing"
        raise RefusedError(f"after `--`: found {found}, expected a verb of the trainer, as in `-- train CONFIG.yaml`")
    return shlex.join([cluster.python, "-m", "trainer", *arguments])


def preparation_command(cluster: Cluster, arguments: Sequence[str], *, workers: str) -> str:
    """`python -m data_prep convert … --workers N`, quoted but for `workers`, which the user's own number replaces."""
    command = shlex.join([cluster.python, "-m", *arguments])
    return command if _has_option(arguments, "--workers") else f"{command} --workers {workers}"


def check_preparation(arguments: Sequence[str]) -> None:
    """Raises RefusedError for what would only be refused once the job runs."""
    example = "as in `-- data_prep convert SOURCE DEST --format zarr`"
    if list(arguments[1:2]) != ["convert"]:
        found = repr(arguments[1]) if arguments[1:] else "nothing"
        raise RefusedError(f"after `-- data_prep`: found {found}, expected `convert`, {example}")
    if len(arguments) < 4 or any(text.startswith("-") for text in arguments[2:4]):
        raise RefusedError(f"after `-- data_prep convert`: expected a source and a destination first, {example}")
    for option in ("--part", "--overwrite", "--dry-run"):
        if _has_option(arguments, option):
            raise RefusedError(
                f"after `--`: {option} is not for jobs; the job itself says which part each machine makes"
            )


def _has_option(arguments: Sequence[str], option: str) -> bool:
    return any(text == option or text.startswith(f"{option}=") for text in arguments)


def preamble(cluster: Cluster, folder: Path) -> list[str]:
    """Lines that enter the working directory and set up the environment."""
    exports = [f"export {name}={shlex.quote(str(value))}" for name, value in cluster.environment.items()]
    return [
        f"cd -- {shlex.quote(str(folder))} || exit 1",
        "export PYTHONUNBUFFERED=1  # logs show each line when it is written",
        *exports,
        *cluster.setup,
    ]
