"""A config model -> YAML that `load_yaml` reads back to an equal model; and the difference of two configs."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import yaml
from pydantic import BaseModel

from data_prep.contract.strict_yaml.tree import SCALARS

INDENT = "  "
LINE_BREAK = re.compile("[\n\r\x85\u2028\u2029]")


class Difference(NamedTuple):
    """One value that two configs disagree on; None where a config has no such key."""

    path: str
    left: str | None
    right: str | None

    def __str__(self) -> str:
        left, right = ("no such key" if side is None else side for side in (self.left, self.right))
        return f"{self.path}: {left} -> {right}"


def dump_yaml(model: BaseModel, *, with_docs: bool = False) -> str:
    """The whole config, defaults written out. `with_docs` puts each field's docstring above it as a comment."""
    lines = _section_lines(model, model.model_dump(mode="json"), with_docs=with_docs)
    return "".join(f"{line}\n" for line in lines)


def diff(left: BaseModel, right: BaseModel) -> tuple[Difference, ...]:
    """The values that differ, by dotted path, in the order of the schema; a list of plain values counts as one."""
    before = dict(_leaves("", left.model_dump(mode="json")))
    after = dict(_leaves("", right.model_dump(mode="json")))
    return tuple(
        Difference(path, before.get(path), after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    )


class _Writer(yaml.SafeDumper):
    """Quotes text that our reader (YAML 1.2) or another one (YAML 1.1) would take for something else."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if LINE_BREAK.search(text) else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _represent_text)
for _name, _pattern in SCALARS:
    _Writer.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, None)


def _inline(value: object) -> str:
    """A value on one line, in flow style."""
    text = yaml.dump([value], Dumper=_Writer, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return text.rstrip("\n")[1:-1]


def _section_lines(section: BaseModel, data: Mapping[str, object], *, with_docs: bool) -> Iterator[str]:
    """`data` is the section as plain values; the section itself brings types and docstrings."""
    for name, value in section:
        if with_docs:
            about = type(section).model_fields[name].description or ""
            yield from (f"# {line}" for line in about.splitlines())
        yield from _entry_lines(name, value, data[name], with_docs=with_docs)


def _entry_lines(key: str, value: object, data: object, *, with_docs: bool) -> Iterator[str]:
    if isinstance(value, BaseModel) and isinstance(data, dict):
        yield f"{key}:"
        yield from (INDENT + line for line in _section_lines(value, data, with_docs=with_docs))
    elif isinstance(value, tuple | list) and isinstance(data, list) and any(isinstance(item, dict) for item in data):
        yield f"{key}:"
        for item, item_data in zip(value, data, strict=True):
            yield from _item_lines(item, item_data)
    elif isinstance(data, dict) and data:
        yield f"{key}:"
        for name, below in data.items():
            yield from (INDENT + line for line in _entry_lines(_inline(name), None, below, with_docs=False))
    else:
        yield f"{key}: {_inline(data)}"


def _item_lines(item: object, data: object) -> Iterator[str]:
    """One entry of a list of sections: on one line where it holds plain values alone. No docs: they would repeat."""
    is_flat = isinstance(data, dict) and not any(isinstance(value, dict | list) for value in data.values())
    if not isinstance(item, BaseModel) or not isinstance(data, dict) or not data or (is_flat and len(data) <= 3):
        yield f"{INDENT}- {_inline(data)}"
        return
    first, *rest = _section_lines(item, data, with_docs=False)
    yield f"{INDENT}- {first}"
    yield from (f"{INDENT}  {line}" for line in rest)


def _leaves(path: str, data: object) -> Iterator[tuple[str, str]]:
    entries: Mapping[str, object] = {}
    if isinstance(data, dict):
        entries = data
    elif isinstance(data, list) and any(isinstance(item, dict | list) for item in data):
        entries = {str(index): item for index, item in enumerate(data)}
    if not entries:
        yield path, _inline(data)
    for key, value in entries.items():
        yield from _leaves(f"{path}.{key}" if path else key, value)
