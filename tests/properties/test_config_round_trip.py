"""Whatever a config holds, its resolved text reads back to an equal config; and the laws of laying one over another."""

import contextlib
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from data_prep.contract.strict_yaml.tree import Node, Place, parse, plain
from trainer.config.dump import diff, dump_yaml
from trainer.config.load import load_yaml, merge
from trainer.config.schema import RunConfig, Section
from trainer.errors import ConfigError

# what UTF-8 can hold; the writer escapes whatever YAML does not allow as it is
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "on",
        "no",
        "1e-4",
        "0x1F",
        "0o7",
        "1_000",
        "1:30",
        "~",
        "null",
        "",
        " ",
        "a: b",
        "- a",
        "#",
        ".inf",
        "-.5",
        "=",
        "<<",
    ]
)
NUMBERS = st.floats(allow_nan=False).map(lambda number: number + 0.0)  # -0.0 equals 0.0, but is written otherwise


class Leaf(Section):
    text: str
    number: float
    count: int
    flag: bool | None
    words: tuple[str, ...]


class Tree(Section):
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    table: dict[str, str] = Field(default_factory=dict)
    grid: tuple[tuple[float, ...], ...] = ()


LEAVES = st.builds(
    Leaf,
    text=TEXT,
    number=NUMBERS,
    count=st.integers(-(10**30), 10**30),
    flag=st.sampled_from([True, False, None]),
    words=st.lists(TEXT, max_size=3).map(tuple),
)
TREES = st.builds(
    Tree,
    leaf=LEAVES,
    leaves=st.lists(LEAVES, max_size=2).map(tuple),
    table=st.dictionaries(TEXT.filter(lambda key: key != "<<"), TEXT, max_size=3),
    grid=st.lists(st.lists(NUMBERS, max_size=2).map(tuple), max_size=2).map(tuple),
)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT
KEYS = st.sampled_from(["a", "b", "c"])
MAPS = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=2),
    lambda below: st.dictionaries(KEYS, below, max_size=3),
    max_leaves=8,
).flatmap(lambda value: st.dictionaries(KEYS, st.just(value), max_size=3))


def node(value: object) -> Node:
    place = Place("here")
    if isinstance(value, dict):
        return Node({key: node(below) for key, below in value.items()}, place)
    if isinstance(value, list):
        return Node([node(below) for below in value], place)
    return Node(value, place)


def laid_over(old: object, new: object) -> object:
    """The law, in plain words: maps key by key, everything else replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    result = {}
    for key in [*old, *(key for key in new if key not in old)]:
        if key in old and key in new:
            result[key] = laid_over(old[key], new[key])
        else:
            result[key] = new[key] if key in new else old[key]
    return result


@settings(deadline=None)
@given(tree=TREES)
def test_a_dumped_config_reads_back_equal(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tree.yaml")
        path.write_text(dump_yaml(tree), encoding="utf-8", newline="")
        assert load_yaml(path, Tree) == tree


@settings(deadline=None)
@given(left=TREES, right=TREES)
def test_configs_without_difference_are_equal(left: Tree, right: Tree) -> None:
    assert (diff(left, right) == ()) == (left == right)


@given(old=MAPS, new=MAPS)
def test_merging_follows_its_law(old: dict[str, object], new: dict[str, object]) -> None:
    assert plain(merge(node(old), node(new), annotation=None)) == laid_over(old, new)


@given(old=MAPS, new=MAPS)
def test_laying_the_same_over_again_changes_nothing(old: dict[str, object], new: dict[str, object]) -> None:
    once = merge(node(old), node(new), annotation=None)
    assert plain(merge(once, node(new), annotation=None)) == plain(once)


@given(path=st.sampled_from(["steps", "seed", "data.batch_size", "metrics.log_every_steps"]), value=st.integers(4, 64))
def test_an_override_equals_the_same_value_in_the_file(path: str, value: int) -> None:
    text = (
        "name: x\noutput: o\nsteps: 10\nengine: {micro_batch_size: 1}\n"
        "stage: {kind: tokeniser, compressions: [{levels: [{}]}],\n"
        "  tokeniser: {widths: [4], kernels: [{}], blocks: [1]}}\n"
        "data: {datasets: [{url: a}], window: {frames: 1}, batch_size: 4}\n"
    )
    nested = f"{value}"
    for part in reversed(path.split(".")):
        nested = f"{{{part}: {nested}}}"
    with tempfile.TemporaryDirectory() as folder:
        base, file = Path(folder, "base.yaml"), Path(folder, "file.yaml")
        base.write_text(text)
        file.write_text(f"base: base.yaml\n{nested[1:-1]}\n")
        assert load_yaml(base, RunConfig, overrides=[f"{path}={value}"]) == load_yaml(file, RunConfig)


@given(text=st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        tree, _ = parse(text, "any")
        json.dumps(plain(tree))
