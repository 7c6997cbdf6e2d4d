"""The resolved config as text, and what two configs differ in."""

from pathlib import Path

from trainer.config.dump import Difference, diff, dump_yaml
from trainer.config.load import load_yaml
from trainer.config.schema import DatasetConfig, MetricsConfig, RunConfig, StudyConfig

STUDY = StudyConfig(
    name="x",
    output="runs/1e-4",
    tokeniser="a.yaml",
    dynamics="b.yaml",
    in_domain=(DatasetConfig(url="no"), DatasetConfig(url="s3://bucket/a: b #c", weight=2.0)),
    out_of_domain=(DatasetConfig(url="line\nbreak"),),
)


def test_the_resolved_config_is_a_valid_input_and_equal(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(STUDY))
    assert load_yaml(path, StudyConfig) == STUDY


def test_docs_stand_above_their_keys_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = dump_yaml(STUDY, with_docs=True)
    path.write_text(text)
    assert "# What the report calls it.\nname: x\n" in text
    assert load_yaml(path, StudyConfig) == STUDY


def test_text_that_looks_like_something_else_is_quoted_for_every_reader() -> None:
    text = dump_yaml(STUDY)
    assert "url: 'no'" in text
    assert "output: runs/1e-4\n" in text


def test_diff_names_what_differs_and_nothing_else() -> None:
    other = STUDY.model_copy(update={"ranks": 2, "in_domain": STUDY.in_domain[:1]})
    first, url, weight, *others = diff(STUDY, other)
    assert first == Difference("ranks", "1", "2")
    assert url == Difference("in_domain.1.url", "'s3://bucket/a: b #c'", None)
    assert weight == Difference("in_domain.1.weight", "2.0", None)
    unset = [key for key in type(STUDY.in_domain[1]).model_fields if key not in ("url", "weight")]
    assert others == [Difference(f"in_domain.1.{key}", "null", None) for key in unset]
    assert diff(STUDY, STUDY) == ()


def test_a_difference_reads_as_one_line() -> None:
    assert str(Difference("a.b", "1", "2")) == "a.b: 1 -> 2"
    assert str(Difference("a.b", None, "2")) == "a.b: no such key -> 2"


def test_every_key_has_a_docstring() -> None:
    undocumented = [
        f"{section.__name__}.{name}"
        for section in sections()
        for name, field in section.model_fields.items()
        if not field.description
    ]
    assert undocumented == []


def sections() -> list[type]:
    from trainer.config import schema

    return [
        value
        for value in vars(schema).values()
        if isinstance(value, type) and issubclass(value, schema.Section) and value is not schema.Section
    ]


def test_null_is_written_and_read_as_null(tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text(dump_yaml(MetricsConfig()))
    assert load_yaml(tmp_path / "metrics.yaml", MetricsConfig).prometheus_port is None
    assert RunConfig in sections()
