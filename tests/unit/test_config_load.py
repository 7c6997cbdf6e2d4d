"""What `load_yaml` takes, in which order it lays things over each other, and how it says no."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig, Section
from trainer.errors import ConfigError


class Square(Section):
    kind: Literal["square"]
    side: float = 1.0
    colour: str = "red"


class Circle(Section):
    kind: Literal["circle"]
    radius: float
    """Of the circle."""


class Style(Section):
    kind: Literal["plain", "dotted"] = "plain"
    widths: tuple[float, ...] = (1.0,)
    on: bool | None = None
    choice: Literal["a", "bee"] | tuple[str, ...] = "a"


class Drawing(Section):
    title: str
    count: Annotated[int, Field(ge=1)] = 1
    shape: Annotated[Square | Circle, Field(discriminator="kind")]
    style: Style = Style()
    points: tuple[Circle, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)


GOOD = "title: x\nshape: {kind: square}\n"


def load(folder: Path, text: str, *overrides: str, base: str | None = None) -> Drawing:
    path = folder / "drawing.yaml"
    path.write_text(text, encoding="utf-8")
    if base is not None:
        (folder / "base.yaml").write_text(base, encoding="utf-8")
    return load_yaml(path, Drawing, overrides=overrides)


def refusal(folder: Path, text: str, *overrides: str, base: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides, base=base)
    return str(caught.value).replace(f"{folder}/", "")


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    text = (
        "title: on\nshape: {kind: square, side: 1e-4, colour: no}\nlabels: {yes: off, a: '1', b: 2001-01-01, c: 1:30}\n"
    )
    drawing = load(tmp_path, text)
    assert (drawing.title, drawing.shape) == ("on", Square(kind="square", side=1e-4, colour="no"))
    assert drawing.labels == {"yes": "off", "a": "1", "b": "2001-01-01", "c": "1:30"}


def test_an_integer_is_a_float_and_a_list_is_a_tuple(tmp_path: Path) -> None:
    drawing = load(tmp_path, "title: x\nshape: {kind: square, side: 2}\nstyle: {widths: [1, 2.5]}\n")
    assert (drawing.shape, drawing.style.widths) == (Square(kind="square", side=2.0), (1.0, 2.5))


def test_the_order_is_base_then_file_then_overrides(tmp_path: Path) -> None:
    base = "title: base\ncount: 2\nstyle: {kind: dotted, widths: [1, 2]}\nshape: {kind: square, side: 3}\n"
    drawing = load(tmp_path, "base: base.yaml\ncount: 3\nshape: {colour: blue}\n", "count=4", "count=5", base=base)
    assert (drawing.title, drawing.count) == ("base", 5)
    assert drawing.shape == Square(kind="square", side=3.0, colour="blue")


def test_lists_replace(tmp_path: Path) -> None:
    drawing = load(tmp_path, "base: base.yaml\nstyle: {widths: [9]}\n", base=GOOD + "style: {widths: [1, 2]}\n")
    assert drawing.style.widths == (9.0,)


def test_another_kind_replaces_a_section_of_a_union(tmp_path: Path) -> None:
    base = "title: x\nshape: {kind: square, side: 3}\n"
    drawing = load(tmp_path, "base: base.yaml\nshape: {kind: circle, radius: 1}\n", base=base)
    assert drawing.shape == Circle(kind="circle", radius=1.0)
    assert load(tmp_path, base, "shape.kind=circle", "shape.radius=4").shape == Circle(kind="circle", radius=4.0)


def test_another_kind_of_a_plain_section_keeps_its_other_keys(tmp_path: Path) -> None:
    drawing = load(tmp_path, GOOD + "style: {widths: [7]}\n", "style.kind=dotted")
    assert drawing.style == Style(kind="dotted", widths=(7.0,))


def test_an_override_reaches_into_a_list(tmp_path: Path) -> None:
    text = GOOD + "points: [{kind: circle, radius: 1}, {kind: circle, radius: 2}]\n"
    drawing = load(tmp_path, text, "points.1.radius=5")
    assert [point.radius for point in drawing.points] == [1.0, 5.0]


def test_an_override_may_be_a_map_and_is_merged(tmp_path: Path) -> None:
    drawing = load(tmp_path, GOOD + "style: {widths: [7]}\n", "style={kind: dotted}", "labels={a.b/c: d}")
    assert (drawing.style.widths, drawing.style.kind, drawing.labels) == ((7.0,), "dotted", {"a.b/c": "d"})


def test_an_override_keeps_equals_signs_of_its_value(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, "title=a=b").title == "a=b"


def test_everything_wrong_is_said_at_once_where_it_was_written(tmp_path: Path) -> None:
    text = (
        "title: x\n"
        "count: 0\n"
        "shape:\n"
        "  kind: square\n"
        "  sied: 1\n"
        "style:\n"
        "  widths: [1, two]\n"
        "  on: yes\n"
        "title: 4\n"
        "points:\n"
        "  - kind: circle\n"
    )
    assert refusal(tmp_path, text, "style.choice=be", "lables.a=b").splitlines() == [
        "drawing.yaml:2: count is 0; expected greater than or equal to 1",
        "drawing.yaml:5: shape.sied is no key of Square; did you mean `side`?",
        'drawing.yaml:7: style.widths.1 is "two"; expected a number',
        'drawing.yaml:8: style.on is "yes"; expected true or false',
        "drawing.yaml:9: key `title` is given twice in one map, first in line 1",
        "drawing.yaml:11: points.0.radius is missing; Circle needs `radius`: Of the circle.",
        "override `lables.a=b`: lables is no key of Drawing; did you mean `labels`?",
        "override `style.choice=be`: style.choice is \"be\"; expected 'a' or 'bee', or a list; did you mean `bee`?",
    ]


def test_text_that_looks_like_a_number_is_to_be_quoted(tmp_path: Path) -> None:
    assert refusal(tmp_path, GOOD, "title=4").endswith(
        "title is 4; expected text (quote it if it looks like something else)"
    )


def test_of_a_key_given_twice_the_second_value_is_not_judged(tmp_path: Path) -> None:
    message = refusal(tmp_path, GOOD + "count: 1\ncount: many\n")
    assert message == "drawing.yaml:4: key `count` is given twice in one map, first in line 3"


def test_a_wrong_entry_does_not_make_its_list_too_short(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    for override, reason in (
        ("data.datasets.0.weight=0", "data.datasets.0.weight is 0; expected greater than 0"),
        ("data.datasets.0=shards/gs", 'data.datasets.0 is "shards/gs"; expected a map of `key: value`'),
        ("stage.compressions.0.levels.0.time=32", "levels.0.time is 32; expected less than or equal to 16"),
        ("data.datasets=[]", "data.datasets is []; expected 1 or more entries"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_yaml(tmp_path / "run.yaml", RunConfig, overrides=[override])
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(reason)


def test_a_list_where_none_belongs_is_shown_as_it_was_written(tmp_path: Path) -> None:
    assert refusal(tmp_path, "base: [a, b]\n").startswith('drawing.yaml:1: base is ["a", "b"]; expected the path')
    assert refusal(tmp_path, "- a\n- {b: 1}\n").endswith('a config is a map of `key: value`, found ["a", {"b": 1}]')


def test_a_name_that_fits_no_path_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    for name in ("../up", "-first", "x" * 129, "x y"):
        with pytest.raises(ConfigError, match=r"; expected letters, digits, `_`, `\.` and `-`, at most 128,"):
            load_yaml(tmp_path / "run.yaml", RunConfig, overrides=[f"name={name}"])
    assert load_yaml(tmp_path / "run.yaml", RunConfig, overrides=["name=a-B_9.c"]).name == "a-B_9.c"


@pytest.mark.parametrize(
    ("override", "largest"),
    [
        ("steps=99999999999999999999999", 10**9),
        ("steps=1000000001", 10**9),
        ("snapshots.every_steps=1000000001", 10**9),
        ("data.batch_size=1000000002", 10**9),
        *((f"{key}=65537", 2**16) for key in ("stage.tokeniser.widths.0", "data.window.frames", "data.threads")),
        ("stage.tokeniser.blocks.0=1025", 1024),
        ("stage.tokeniser.kernels.0.time=65", 64),
    ],
)
def test_a_number_that_no_run_could_have_is_refused(tmp_path: Path, override: str, largest: int) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(ConfigError, match=f"expected less than or equal to {largest}$"):
        load_yaml(tmp_path / "run.yaml", RunConfig, overrides=[override])


def test_a_mistake_in_the_base_is_said_of_the_base(tmp_path: Path) -> None:
    message = refusal(tmp_path, "base: base.yaml\ncount: 2\n", base=GOOD + "cuont: 1\n")
    assert message == "base.yaml:3: cuont is no key of Drawing; did you mean `count`?"


def test_a_missing_key_names_its_section(tmp_path: Path) -> None:
    assert refusal(tmp_path, "title: x\n") == "drawing.yaml: shape is missing; Drawing needs `shape`"
    assert (
        refusal(tmp_path, "title: x\nshape: {}\n")
        == "drawing.yaml:2: shape.kind is missing; expected 'square' or 'circle'"
    )


def test_an_unknown_kind_names_the_known_ones(tmp_path: Path) -> None:
    message = refusal(tmp_path, "title: x\nshape:\n  kind: cirlce\n")
    assert message == "drawing.yaml:3: shape.kind is 'cirlce'; expected 'square' or 'circle'; did you mean `circle`?"
    assert refusal(tmp_path, GOOD, "shape.kind=disc").startswith("override `shape.kind=disc`: shape.kind is 'disc'")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("count", "expected `section.key=value`"),
        (".count=1", "expected `section.key=value`"),
        ("title.x=1", "title is a value ('x'), so it has no key `x`"),
        ("points.0.radius=1", "points is given by no file, so it has no entry 0 to override; "
         "give the whole list `points=[…]`"),
        ("count=[1", "not YAML: expected ',' or ']', but got '<stream end>'"),
        ("shape.side={a: 1", "not YAML: expected ',' or '}', but got '<stream end>'"),
    ],
)  # fmt: skip
def test_an_override_that_leads_nowhere_is_refused(tmp_path: Path, override: str, reason: str) -> None:
    assert refusal(tmp_path, GOOD, override) == f"override `{override}`: {reason}"


def test_an_override_beyond_the_end_of_a_list_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, GOOD + "style: {widths: [1, 2]}\n", "style.widths.2=1")
    assert message.endswith("style.widths is a list of 2; give an index from 0 to 1, not `2`, or the whole list")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("title: !!str x\n", "1: not allowed in a config: a YAML tag"),
        ("title: !!python/object/apply:os.getcwd []\n", "1: not allowed in a config: a YAML tag"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n", "3: not allowed in a config: the merge key"),
        ("? [1]\n: 2\n", "1: not allowed in a config: a key that is not plain text"),
        ("a: &a [*a]\n", "1: not allowed in a config: alias `*a` names no finished anchor"),
        ("a: 1\n---\nb: 2\n", "2: not allowed in a config: a second document"),
        ("title: [1\n", "2: not YAML"),
        ('title: "\\ud800"\n', "1: not allowed in a config: an escaped surrogate"),
        ("- 1\n", "1: a config is a map"),
        ("a: " + "[" * 40 + "]" * 40, "1: not allowed in a config: nested deeper than"),
        ("title: \x07\n", " not YAML"),
    ],
)
def test_what_a_config_may_not_hold_is_refused_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    assert refusal(tmp_path, text).startswith(f"drawing.yaml:{reason}")


def test_aliases_share_values(tmp_path: Path) -> None:
    text = "title: x\nshape: &c {kind: circle, radius: 1}\npoints: [*c, *c]\n"
    assert load(tmp_path, text).points == (Circle(kind="circle", radius=1.0),) * 2


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "values once aliases are expanded" in refusal(tmp_path, "\n".join(lines))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    assert "larger than 262144 bytes" in refusal(tmp_path, GOOD + "#" * 300_000)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "drawing.yaml").write_bytes(b"title: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 7"):
        load_yaml(tmp_path / "drawing.yaml", Drawing)


def test_an_absent_file_or_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such config file"):
        load_yaml(tmp_path / "absent.yaml", Drawing)
    assert refusal(tmp_path, "base: other.yaml\n").startswith("drawing.yaml:1: base: no file other.yaml")


def test_a_base_of_a_base_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "base: base.yaml\n", base="title: x\nbase: drawing.yaml\n")
    assert message == "base.yaml:2: base: this file is itself the base of drawing.yaml; only one level is allowed"


def test_a_number_of_any_length_is_answered(tmp_path: Path) -> None:
    assert "count is Infinity; expected an integer" in refusal(tmp_path, GOOD + "count: " + "1" * 5000 + "\n")


RUN = """
name: run
output: runs/run
steps: 10
stage:
  kind: dynamics
  tokeniser: {widths: [8, 16], kernels: [{}, {}], blocks: [1, 1]}
  processor: {}
  compressions: [{levels: [{}, {time: 2}]}]
data:
  datasets: [{url: data}]
  window: {frames: 5}
  batch_size: 4
engine: {micro_batch_size: 2}
"""


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("stage.compressions=[{levels: [{}]}]", "has 1 levels, but stage.tokeniser.widths has 2"),
        ("stage.compressions.0.levels.1.time=3", "stage.compressions.0.levels.1 is wider than its kernel"),
        ("data.window.frames=4", "it must be 1 + a multiple of it; use 3 or 5"),
        ("data.window.frames=1", "data.window.frames 1 leaves nothing to predict; use 3 or more"),
        ("evaluation.context_frames=2", "evaluation.context_frames is 2"),
        ("engine.micro_batch_size=3", "data.batch_size 4 is no multiple of engine.micro_batch_size 3"),
        ("optimizer.schedule.warmup_steps=11", "the run has 10; shorten them"),
        ("optimizer.schedule.cooldown_steps=1", "a cosine schedule has none"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas.1 is 1.0; expected less than 1"),
        ("stage.processor.num_heads=3", "width 128 is no multiple of num_heads 3"),
        ("stage.processor.conditions=[a, b, a]", "names one of them twice"),
        ("stage.loss.mse=0", "every loss weight is 0"),
        ("stage.tokeniser.blocks=[1]", "give one for each level"),
        ("engine={precision: bf16, zero_stage: 0}", "use zero_stage 1"),
        ("optimizer.kind=soap", "engine.zero_stage is 2, but optimizer.kind soap needs whole matrices"),
        ("name=../up", "name is"),
    ],
)
def test_sections_that_do_not_agree_are_refused(tmp_path: Path, override: str, reason: str) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    load_yaml(tmp_path / "run.yaml", RunConfig)
    with pytest.raises(ConfigError) as caught:
        load_yaml(tmp_path / "run.yaml", RunConfig, overrides=[override])
    assert reason in str(caught.value)


def test_a_disagreement_is_said_where_its_key_was_written(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN.lstrip())
    with pytest.raises(ConfigError) as caught:
        load_yaml(tmp_path / "run.yaml", RunConfig, overrides=["engine.micro_batch_size=3"])
    assert str(caught.value).startswith(f"{tmp_path}/run.yaml:12: data.batch_size 4 is no multiple")


def test_reading_a_config_imports_neither_torch_nor_deepspeed() -> None:
    code = "import sys, trainer.config.load, trainer.config.dump, trainer.config.schema; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "deepspeed", "numpy"} & set(found)
