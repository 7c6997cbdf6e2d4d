"""Every command that a page or a config shows exists: its verb, its options, the files that it names."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from launchers.__main__ import main as launchers

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trainer", "data_prep", "launchers")
PAGES = sorted(
    path for pattern in ("*.md", *(f"{p}/**/*.md" for p in (*PACKAGES, "configs"))) for path in ROOT.glob(pattern)
)
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_COMMENT = re.compile(r"python -m (?:trainer|data_prep|launchers)\b[^`\n()]*")
OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z0-9_]+)*=")
OTHER_PROGRAMS = {"git", "cd", "prometheus", "pip", "sbatch", "curl", "export", "kubectl"}
"""What pages may call beside ours; not checked."""


class Command(NamedTuple):
    page: str
    text: str


def shown() -> Iterator[Command]:
    for page in PAGES:
        for block in SHELL_BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    yield Command(str(page.relative_to(ROOT)), line)
    for config in CONFIGS:
        comments = "\n".join(line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
        for found in IN_COMMENT.findall(comments):
            yield Command(str(config.relative_to(ROOT)), found)


COMMANDS = list(dict.fromkeys(shown()))


def words(command: Command) -> list[str]:
    return shlex.split(command.text, comments=True)


def modules_called(command: Command) -> Iterator[tuple[str, list[str]]]:
    """(package, its arguments) for `-m package …`."""
    parts = words(command)
    for place, part in enumerate(parts[:-1]):
        if part == "-m" and parts[place + 1] in PACKAGES:
            yield parts[place + 1], parts[place + 2 :]


@cache
def help_of(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"python -m {' '.join(arguments)} --help: {done.stderr}"
    return done.stdout


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_pages_show_commands() -> None:
    assert {command.page for command in COMMANDS} >= {"README.md", "configs/README.md"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text}"[:100])
def test_a_command_exists(command: Command) -> None:
    program = Path(words(command)[0]).name
    if program == "make":
        assert set(words(command)[1:]) <= make_targets()
    elif program in ("python", "torchrun", "deepspeed", "srun"):
        assert list(modules_called(command)), "a command of ours runs one of our modules"
    else:
        assert program in OTHER_PROGRAMS
    for package, arguments in modules_called(command):
        check_call(package, arguments)


def check_call(package: str, arguments: list[str]) -> None:
    verb = arguments[0]
    own, _, inner = (" ".join(arguments)).partition(" -- ")
    text = help_of(package, verb)
    for argument in shlex.split(own)[1:] if not inner else own.split()[1:]:
        option = argument.split("=")[0]
        if option.startswith("--"):
            assert re.search(rf"{option}\b", text), f"python -m {package} {verb} has no {option}"
        elif not OVERRIDE.match(argument) and argument.startswith("configs/"):
            assert (ROOT / argument).exists(), f"{argument} is not there"
    if inner:
        words_inside = inner.split()
        is_preparation = words_inside[0] == "data_prep"
        check_call("data_prep" if is_preparation else "trainer", words_inside[1:] if is_preparation else words_inside)


JOBS = [
    arguments
    for command in COMMANDS
    for package, arguments in modules_called(command)
    if package == "launchers" and arguments[0] in ("render", "submit") and "CONFIG.yaml" not in arguments
]


def test_pages_show_jobs() -> None:
    assert {arguments[1] for arguments in JOBS} == {
        f"configs/clusters/{name}.yaml" for name in ("kubernetes", "local", "slurm")
    }


@pytest.mark.parametrize("arguments", JOBS, ids=" ".join)
def test_a_job_that_a_page_shows_would_be_accepted(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert launchers(["render", *arguments[1:]]) == 0


def test_links_between_pages_lead_somewhere() -> None:
    wrong = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert wrong == []
