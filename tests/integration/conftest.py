"""Trainings that several files look at: each is run once a session."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RequireProgram
from tests.integration.practice import eventually, make_practice
from tests.integration.ssh_hosts import PROGRAMS, SshHosts, ssh_hosts
from tests.integration.ssh_jobs import SshJobs, is_alive
from tests.integration.tiny_corpus import WIDE, make_corpus
from tests.integration.trainings import TORCHRUN, TRAIN_TOKENISER, Ended, Workshop, make_workshop

OpenWorkshop = Callable[[str], Workshop]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See tiny_corpus.make_corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def open_workshop(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> OpenWorkshop:
    return lambda name: make_workshop(tmp_path_factory.mktemp(name), corpus)


@pytest.fixture(scope="session")
def pretraining(open_workshop: OpenWorkshop) -> tuple[Workshop, Ended]:
    """The tokeniser stage by torchrun on 2 ranks under ZeRO-2, and how that ended."""
    workshop = open_workshop("pretraining")
    return workshop, workshop.run(*TORCHRUN, "trainer", "train", "tokeniser.yaml")


@pytest.fixture(scope="session")
def pretrained(pretraining: tuple[Workshop, Ended]) -> Workshop:
    """Where the run `tokeniser` has ended well."""
    workshop, ended = pretraining
    assert ended.code == 0, ended.err[-3000:]
    return workshop


@pytest.fixture(scope="session")
def one_rank(open_workshop: OpenWorkshop, pretrained: Workshop) -> Workshop:
    """Runs of one process, named after what is special about them."""
    workshop = open_workshop("one-rank")
    workshop.take_over("tokeniser", source=pretrained, up_to=60, name="again")
    workshop.take_over("tokeniser", source=pretrained, up_to=50, name="shrunk")
    dynamics = ("dynamics.yaml", f"stage.start_from={pretrained.folder}/tokeniser", "engine.kind=plain", "steps=6")
    return _run_all(
        workshop,
        ("tokeniser.yaml", "output=plain", "engine.kind=plain"),
        ("tokeniser.yaml", "output=unsharded", "engine.zero_stage=0"),
        ("tokeniser.yaml", "output=alone"),
        ("tokeniser.yaml", "output=shrunk"),
        ("again/config.yaml", "output=again"),
        ("tokeniser.yaml", "output=recomputed", "engine.kind=plain", "engine.recompute=true", "steps=6"),
        ("tokeniser.yaml", "output=kept", "engine.kind=plain", "steps=6"),
        (*dynamics, "output=dynamics-kept"),
        (*dynamics, "output=dynamics-recomputed", "engine.recompute=true"),
        size=1,
    )


@pytest.fixture(scope="session")
def two_ranks(open_workshop: OpenWorkshop, pretrained: Workshop, one_rank: Workshop) -> Workshop:
    """Runs of two ranks, named after what is special about them."""
    workshop = open_workshop("two-ranks")
    workshop.take_over("alone", source=one_rank, up_to=50, name="grown")
    bf16 = ("engine.precision=bf16", "engine.zero_stage=1")
    dynamics, start = "dynamics.yaml", f"stage.start_from={pretrained.folder}/tokeniser"
    wide = (dynamics, *WIDE, "steps=5", "snapshots.every_steps=0")
    return _run_all(
        workshop,
        ("tokeniser.yaml", "output=grown"),
        ("tokeniser.yaml", "output=bf16", *bf16),
        (dynamics, start, "output=dynamics-bf16", "steps=30", *bf16),
        (*wide, "output=wide"),
        (*wide, "output=wide-sharded", "engine.zero_stage=3"),
        (*wide, "output=wide-recomputed", "engine.zero_stage=3", "engine.recompute=true"),
        size=2,
    )


@pytest.fixture(scope="session")
def preempted(open_workshop: OpenWorkshop) -> tuple[Workshop, list[Ended]]:
    """The run `tokeniser` of two ranks, of which one was given notice: how they ended. test_kill_and_resume goes on."""
    workshop = open_workshop("stopped")
    return workshop, workshop.notify(TRAIN_TOKENISER, number=signal.SIGTERM, run="tokeniser", step=10, size=2)


def _run_all(workshop: Workshop, *trainings: tuple[str, ...], size: int) -> Workshop:
    commands = workshop.folder / "commands.json"
    commands.write_text(json.dumps([["train", *training] for training in trainings]))
    workshop.finish("tests.integration.several_commands", str(commands), size=size)
    return workshop


@pytest.fixture(scope="module")
def network(require_program: RequireProgram, require_root: None) -> Iterator[SshHosts]:
    for program, package in PROGRAMS.items():
        require_program(program, package=package)
    with ssh_hosts("desk", "red", "blue", "green") as hosts:
        yield hosts


@pytest.fixture
def ssh_jobs(network: SshHosts, tmp_path: Path, repository: Path) -> Iterator[SshJobs]:
    ssh_jobs = SshJobs(network, make_practice(tmp_path), repository=repository)
    yield ssh_jobs
    ssh_jobs.practice.order("finish")
    if ssh_jobs.record_path.exists():
        record = ssh_jobs.record
        everyone = (record.supervisor, *record.members)
        eventually(lambda: not any(process.is_alive for process in everyone), what="the job leaves nothing behind")
    notes = [json.loads(path.read_text()) for path in ssh_jobs.practice.folder.glob("start-*.json")]
    eventually(lambda: not any(is_alive(note) for note in notes), what="no rank is left behind")
