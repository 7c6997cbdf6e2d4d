"""YAML files and overrides -> one checked config model. Used by every command that takes a config; imports no torch.

The order: the file that `base:` names (one level, relative to the naming file), the file itself, then overrides
`a.b=c` from left to right. Maps merge, lists and values replace. Where a union of sections is told apart by `kind`
(the stage, say), another `kind` replaces the whole section: keys of one kind mean nothing to the other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from data_prep.contract.strict_yaml.explain import shown, validate
from data_prep.contract.strict_yaml.read import checked, read_tree
from data_prep.contract.strict_yaml.structure import annotation_below, given_kind, sections
from data_prep.contract.strict_yaml.tree import MAX_BYTES, Node, Problem, parse, plain
from trainer.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)

BASE = "base"


def load_yaml(path: str | Path, model: type[Model], *, overrides: Sequence[str] = ()) -> Model:
    """The config of `path`, its base and the overrides, checked against `model`.

    Raises ConfigError, whose message lists everything that is wrong, one line each.
    """
    problems: list[Problem] = []
    tree = _read_with_base(Path(path), model, problems=problems)
    return _check(tree, model, overrides=overrides, problems=problems)


def load_text(text: str, model: type[Model], *, source: str, overrides: Sequence[str] = ()) -> Model:
    """The config that `text` holds, resolved already: it names no base. `source` stands in messages for its file.

    Raises ConfigError as `load_yaml` does.
    """
    tree, problems = parse(text, source)
    return _check(tree, model, overrides=overrides, problems=problems)


def _check(tree: Node, model: type[Model], *, overrides: Sequence[str], problems: list[Problem]) -> Model:
    for override in overrides:
        tree = _override(tree, override, model=model, problems=problems)
    return checked(validate(tree, model, problems=problems), problems)


def _read_with_base(path: Path, model: type[BaseModel], *, problems: list[Problem]) -> Node:
    tree = read_tree(path, problems=problems)
    named = _take_base(tree)
    if named is None:
        return tree
    if not isinstance(named.value, str) or not named.value:
        raise ConfigError(
            f"{named.place}: base is {shown(plain(named))}; expected the path of one YAML file beside this one"
        )
    base_path = path.parent / named.value
    if not base_path.is_file():
        raise ConfigError(f"{named.place}: base: no file {base_path}; the path is relative to {path.parent}")
    base = read_tree(base_path, problems=problems)
    if (second := _take_base(base)) is not None:
        raise ConfigError(f"{second.place}: base: this file is itself the base of {path}; only one level is allowed")
    return merge(base, tree, annotation=model)


def _take_base(tree: Node) -> Node | None:
    assert isinstance(tree.value, dict)
    return tree.value.pop(BASE, None)


def merge(old: Node, new: Node, *, annotation: Any) -> Node:
    """`new` over `old`: maps key by key, everything else replaced; so is a section whose `kind` changes."""
    if not isinstance(old.value, dict) or not isinstance(new.value, dict):
        return new
    if _changes_kind(annotation, old, new):
        return new
    merged = dict(old.value)
    union = Node(old.value | new.value, new.place)
    for key, child in new.value.items():
        below = annotation_below(annotation, union, key=key)
        merged[key] = merge(old.value[key], child, annotation=below) if key in old.value else child
    return Node(merged, new.place)


def _changes_kind(annotation: Any, old: Node, new: Node) -> bool:
    """Whether `new` asks for another section of the union that stands here."""
    return len(sections(annotation)) > 1 and given_kind(new) not in (None, given_kind(old))


def _override(tree: Node, override: str, *, model: type[BaseModel], problems: list[Problem]) -> Node:
    """The tree with `a.b=c` laid over it; a path that leads nowhere is a problem and changes nothing."""
    source = f"override `{override:.120}`"
    path, equals, text = override.partition("=")
    parts = path.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{source}: expected `section.key=value`")
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: longer than {MAX_BYTES} characters")
    value, found = parse(text, source, numbered=False)
    problems.extend(found)
    return _place_at(tree, parts, value=value, done=(), annotation=model, problems=problems)


def _place_at(
    node: Node, parts: Sequence[str], *, value: Node, done: tuple[str, ...], annotation: Any, problems: list[Problem]
) -> Node:
    """`node` with `value` merged in at the dotted path `parts`, rebuilt along that path alone."""
    if not parts:
        return merge(node, value, annotation=annotation)
    key, here = parts[0], ".".join(done)
    if isinstance(node.value, list):
        if not key.isdecimal() or int(key) >= len(node.value):
            problems.append(Problem(value.place, _no_such_item(here, key, length=len(node.value))))
            return node
        below = annotation_below(annotation, node, key=int(key))
        item = _place_at(
            node.value[int(key)], parts[1:], value=value, done=(*done, key), annotation=below, problems=problems
        )
        return Node([*node.value[: int(key)], item, *node.value[int(key) + 1 :]], node.place)
    if node.value is not None and not isinstance(node.value, dict):
        text = f"{here} is a value ({node.value!r:.60}), so it has no key `{key}`"
        problems.append(Problem(value.place, text))
        return node
    entries = node.value or {}
    if not parts[1:] and _changes_kind(annotation, node, Node({key: value}, value.place)):
        return Node({key: value}, node.place)
    if node.value is None and key.isdecimal():
        text = f"{here} is given by no file, so it has no entry {key} to override; give the whole list `{here}=[…]`"
        problems.append(Problem(value.place, text))
        return node
    below = annotation_below(annotation, node, key=key)
    start = entries.get(key, Node(None, value.place))
    child = _place_at(start, parts[1:], value=value, done=(*done, key), annotation=below, problems=problems)
    return node if child is start else Node({**entries, key: child}, node.place)


def _no_such_item(path: str, key: str, *, length: int) -> str:
    return f"{path} is a list of {length}; give an index from 0 to {length - 1}, not `{key}`, or the whole list"
