"""Who may import whom: arrows run down, without circles, and each heavy library has its own door."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Protocol

import pytest


class Module(Protocol):
    """See conftest."""

    name: str
    path: Path
    tree: ast.Module
    imports: frozenset[str]


Modules = dict[str, Module]

FLOORS = (
    ("data_prep.contract", "data_prep.interrupts"),
    ("data_prep.corpus", "data_prep.numbers"),
    ("data_prep.sources",),
    ("data_prep.planning", "data_prep.terminal"),
    ("data_prep.layouts",),
    ("data_prep.conversion", "data_prep.simulate"),
    ("data_prep.inspection",),
    ("data_prep.__main__",),
    ("trainer.scaling", "trainer.permutation"),
    ("trainer.errors", "trainer.batch", "trainer.masked", "trainer.models", "trainer.spectrum"),
    ("trainer.config", "trainer.world", "trainer.interfaces", "trainer.losses", "trainer.scores", "trainer.preemption"),
    ("trainer.collectives", "trainer.ranks", "trainer.watch", "trainer.profile"),
    (
        *(
            "trainer.data",
            "trainer.stages",
            "trainer.engine",
            "trainer.metrics",
            "trainer.optimizers",
            "trainer.memory",
        ),
        *("trainer.snapshot", "trainer.evaluate", "trainer.pictures", "trainer.report"),
    ),
    ("trainer.loop", "trainer.scoring", "trainer.history", "trainer.run_folder", "trainer.about"),
    ("trainer.trained", "trainer.study"),
    ("trainer.study_report", "trainer.run_report", "trainer.check", "trainer.rate_distortion", "trainer.sizing"),
    ("trainer.resume", "trainer.export", "trainer.pretrained"),
    ("trainer.run",),
    ("trainer.__main__",),
)
"""Rooms from the ground up: each may import from floors below its own, none from its own or above."""

DOORS = {
    "deepspeed": {"trainer.engine.deepspeed_door": "the engine"},
    "prometheus_client": {"trainer.metrics.prometheus": "the endpoint"},
    "h5py": {
        "data_prep.sources.hdf5_node": "reads The Well's files",
        "data_prep.simulate.well_writer": "writes them",
    },
    "xarray": {"data_prep.sources.xarray_corpus": "NetCDF files and zarr stores"},
    "fsspec": {"data_prep.contract.remote": "all object stores are reached through it"},
    "obstore": {"data_prep.contract.s3_ranges": "ranges of S3 objects, where it is installed"},
}
"""The modules that may import a library, with the reason."""

ENVIRONMENT_READERS = {
    "trainer.world": "RANK, WORLD_SIZE and their friends",
    "trainer.__main__": "which rank an error is of, without torch, which `trainer.world` needs",
    "launchers.ranks": "the environment that ranks inherit",
    "launchers.detached": "the environment that a job inherits",
}

RUN_CONFIG_USERS = {
    "trainer.run": "the composition root",
    "trainer.__main__": "the command line",
    "trainer.resume": "compares it with a snapshot's",
    "trainer.check": "says what a run would need",
    "trainer.sizing.command": "streams what a run would",
    "trainer.trained": "reads what a run has left",
    "trainer.study": "makes the runs of a study",
    "trainer.run_report": "says what differs between runs",
    "launchers.__main__": "refuses a wrong config before a job waits in a queue",
}


def room(name: str) -> str | None:
    """The room of a module: the entry of FLOORS that it is or lies in."""
    return next((r for floor in FLOORS for r in floor if name == r or name.startswith(f"{r}.")), None)


def floor_of(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def users(modules: Modules, library: str) -> set[str]:
    return {module.name for module in modules.values() if any(within(used, library) for used in module.imports)}


@pytest.mark.parametrize("package", ["data_prep", "trainer"])
def test_every_room_has_a_floor(modules: Modules, package: str) -> None:
    assert [name for name in modules if within(name, package) and name != package and room(name) is None] == []


def test_arrows_run_down(modules: Modules) -> None:
    wrong = []
    for module in modules.values():
        for used in module.imports:
            here, there = room(module.name), room(used)
            if here and there and here != there and floor_of(there) >= floor_of(here):
                wrong.append(f"{module.path} imports {used}")
    assert wrong == []


def test_no_module_imports_itself_by_a_detour(modules: Modules) -> None:
    graph = {name: {used for used in module.imports if used in modules} for name, module in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_imports_are_absolute(modules: Modules) -> None:
    assert [m.path for m in modules.values() if any(used.startswith(".") for used in m.imports)] == []


def test_the_trainer_takes_the_contract_alone_from_data_prep(modules: Modules) -> None:
    wrong = [
        f"{module.path} imports {used}"
        for module in modules.values()
        if within(module.name, "trainer")
        for used in module.imports
        if within(used, "launchers") or (within(used, "data_prep") and not within(used, "data_prep.contract"))
    ]
    assert wrong == []


def test_data_prep_knows_neither_torch_nor_the_trainer(modules: Modules) -> None:
    wrong = [
        f"{module.path} imports {used}"
        for module in modules.values()
        if within(module.name, "data_prep")
        for used in module.imports
        if any(within(used, other) for other in ("torch", "deepspeed", "trainer", "launchers"))
    ]
    assert wrong == []


def test_launchers_take_configs_and_errors_alone_from_the_trainer(modules: Modules) -> None:
    wrong = [
        f"{module.path} imports {used}"
        for module in modules.values()
        if within(module.name, "launchers")
        for used in module.imports
        if within(used, "data_prep")
        or (within(used, "trainer") and not within(used, "trainer.config") and used != "trainer.errors")
    ]
    assert wrong == []


def test_models_know_nothing_of_training(modules: Modules) -> None:
    allowed = ("torch", "einops", "trainer.models")
    forbidden = ("torch.distributed", "torch.utils.data", "torch.optim")
    wrong = [
        f"{module.path} imports {used}"
        for module in modules.values()
        if within(module.name, "trainer.models")
        for used in module.imports
        if any(within(used, name) for name in forbidden)
        or (used.split(".")[0] not in sys.stdlib_module_names and not any(within(used, name) for name in allowed))
    ]
    assert wrong == []


@pytest.mark.parametrize("room_name", ["trainer.config", "data_prep.contract", "launchers"])
def test_light_rooms_reach_no_heavy_library(modules: Modules, room_name: str) -> None:
    reached, waiting = set(), [name for name in modules if within(name, room_name)]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [used for used in modules[name].imports if used in modules]
    libraries = {used.split(".")[0] for name in reached for used in modules[name].imports}
    assert not libraries & {"torch", "deepspeed", "matplotlib", "h5py", "webdataset"}


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_its_door(modules: Modules, library: str) -> None:
    assert users(modules, library) <= set(DOORS[library])


def test_the_environment_is_read_in_named_places(modules: Modules) -> None:
    readers = {
        module.name
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
    }
    assert readers <= set(ENVIRONMENT_READERS)


def test_the_whole_run_config_is_named_in_few_places(modules: Modules) -> None:
    namers = {
        module.name
        for module in modules.values()
        if not within(module.name, "trainer.config")
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Name) and node.id == "RunConfig")
        or (isinstance(node, ast.alias) and node.name == "RunConfig")
    }
    assert namers <= set(RUN_CONFIG_USERS)


def test_no_import_is_for_type_checkers_alone(modules: Modules) -> None:
    assert [m.path for m in modules.values() if "TYPE_CHECKING" in ast.dump(m.tree)] == []
