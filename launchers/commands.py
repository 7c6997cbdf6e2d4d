"""Asks the commands that schedulers bring, such as sbatch and kubectl: what they say of a failure becomes our error."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence

from launchers.job import SchedulerError
from trainer.errors import RefusedError

COMMAND_SECONDS = 60.0
"""Longest that one may take; a controller under load answers within tens of seconds."""


def find_program(name: str, *, advice: str) -> str:
    """Its path. Raises RefusedError, with the advice, where it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise RefusedError(f"{name} is not on PATH; {advice}")
    return path


def run_command(command: Sequence[str], *, text: str = "") -> str:
    """What it printed, having read `text`. Raises SchedulerError with what it said where it failed."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{shlex.join(command)}: no answer in {COMMAND_SECONDS:g} s; ask again later") from None
    if done.returncode != 0:
        raise SchedulerError(f"{shlex.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
