"""Checks a tree against its schema and says what is wrong where it was written, in words of the config."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from data_prep.contract.strict_yaml.structure import KIND, annotation_below, kinds, section_at, sections
from data_prep.contract.strict_yaml.tree import Node, Place, Problem, plain

Model = TypeVar("Model", bound=BaseModel)

EXPECTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text (quote it if it looks like something else)",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a map of `key: value`",
    "model_type": "a map of `key: value`",
    "model_attributes_type": "a map of `key: value`",
}
"""What pydantic's type errors mean in a YAML file; other kinds of error bring their own words."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where in the tree an error of the schema belongs."""

    path: str
    """Dotted; empty at the root."""
    node: Node
    """The deepest value on the path that exists."""
    annotation: Any
    """What the schema expects there; None where it knows nothing."""
    parent: type[BaseModel] | None
    """The section that the last key is looked up in."""


def validate(tree: Node, model: type[Model], *, problems: list[Problem]) -> Model | None:
    """The model of this tree; or None, with everything that is wrong added to `problems`."""
    try:
        # through JSON: there a strict schema takes lists for tuples, which is what YAML can write
        return model.model_validate_json(json.dumps(plain(tree)))
    except ValidationError as error:
        problems.extend(_problems(error.errors(include_url=False), tree, model=model))
        return None


def faults_of(error: ValidationError, value: object, model: type[BaseModel]) -> list[str]:
    """What is wrong with a value that no person wrote: the same sentences, without places."""
    errors = error.errors(include_url=False)
    tree = _tree_along(value, [each["loc"] for each in errors])
    return [problem.text for problem in _problems(errors, tree, model=model)]


def _tree_along(value: object, locs: list[tuple[int | str, ...]]) -> Node:
    """The tree of a value as far as errors lead; it may be far larger than what is wrong with it."""
    below: dict[int | str, list[tuple[int | str, ...]]] = {}
    for loc in locs:
        if loc:
            below.setdefault(loc[0], []).append(loc[1:])
    place = Place("")
    if isinstance(value, dict):
        return Node({str(key): _tree_along(value[key], rest) for key, rest in below.items() if key in value}, place)
    if isinstance(value, list | tuple):
        return Node([_tree_along(item, below.get(number, [])) for number, item in enumerate(value)], place)
    return Node(None, place)


def _problems(errors: Iterable[ErrorDetails], tree: Node, *, model: type[BaseModel]) -> list[Problem]:
    """One problem for each path: the members of a union complain separately, people want one sentence."""
    grouped: dict[str, list[tuple[Location, ErrorDetails]]] = {}
    for error in errors:
        location = locate(error["loc"], tree, model=model)
        grouped.setdefault(location.path, []).append((location, error))
    return [
        problem for path, group in grouped.items() if not _any_below(path, grouped) for problem in _problems_at(group)
    ]


def _any_below(path: str, paths: Iterable[str]) -> bool:
    """Whether another problem lies below: to pydantic, a list is too short once a wrong entry is taken out."""
    return any(other.startswith(f"{path}.") for other in paths)


def _problems_at(group: list[tuple[Location, ErrorDetails]]) -> Iterator[Problem]:
    location, error = group[0]
    if error["type"] != "value_error":
        blamed = _child(location.node, KIND) if error["type"] == "union_tag_invalid" else location.node
        yield Problem(blamed.place, _sentence(group))
        return
    prefix = f"{location.path}: " if location.path else ""
    for sentence in str(error["ctx"]["error"]).split("\n"):
        yield Problem(_deepest(location.node, sentence).place, prefix + sentence)


def locate(loc: tuple[int | str, ...], tree: Node, *, model: type[BaseModel]) -> Location:
    """Follows pydantic's location, which also names members of unions, through the tree and the schema."""
    path: list[str] = []
    node, annotation = tree, model
    parent: type[BaseModel] | None = None
    tagged = False
    for part in loc:
        candidates = sections(annotation)
        if not tagged and len(candidates) > 1 and any(part in kinds(section) for section in candidates):
            tagged = True
            continue
        section = section_at(annotation, node)
        if isinstance(part, str) and not _is_key(part, section, node):
            continue
        path.append(str(part))
        parent, tagged = section, False
        annotation = annotation_below(annotation, node, key=part)
        node = _child(node, part)
    return Location(".".join(path), node, annotation, parent)


def _is_key(part: str, section: type[BaseModel] | None, node: Node) -> bool:
    """Whether a part of a location is a key, not the name of a union's member."""
    return (isinstance(node.value, dict) and part in node.value) or (
        section is not None and part in section.model_fields
    )


def _child(node: Node, part: str | int) -> Node:
    """The entry; the node itself where it has none (a missing key is reported at its section)."""
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part, node)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return node


def _deepest(node: Node, sentence: str) -> Node:
    """The value that a validator's sentence is about, where it opens with a path from its section on."""
    for part in sentence.split(" ")[0].rstrip(":").split("."):
        node = _child(node, int(part) if part.isdecimal() and isinstance(node.value, list) else part)
    return node


def _sentence(group: list[tuple[Location, ErrorDetails]]) -> str:
    location, error = group[0]
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(location)
        case "missing":
            return _missing(location)
        case "union_tag_not_found":
            return f"{location.path}.{KIND} is missing; expected {_one_of(_tags(location.annotation))}"
        case "union_tag_invalid":
            found = str(error["ctx"]["tag"])
            tags = _tags(location.annotation)
            return f"{location.path}.{KIND} is {found!r:.60}; expected {_one_of(tags)}{_nearest(found, tags)}"
    expected = ", or ".join(dict.fromkeys(_expected(each) for _, each in group))
    hint = _nearest(str(error["input"]), _literals(group))
    return f"{location.path or 'the file'} is {shown(error['input'])}; expected {expected}{hint}"


def _unknown_key(location: Location) -> str:
    key = location.path.rpartition(".")[2]
    if location.parent is None:
        return f"{location.path} is not known here"
    known = tuple(location.parent.model_fields)
    hint = _nearest(key, known) or f"; its keys are {', '.join(known)}"
    return f"{location.path} is no key of {location.parent.__name__}{hint}"


def _missing(location: Location) -> str:
    key = location.path.rpartition(".")[2]
    if location.parent is None:
        return f"{location.path} is missing; the list is too short"
    about = location.parent.model_fields[key].description
    meaning = f": {about.splitlines()[0]}" if about else ""
    return f"{location.path} is missing; {location.parent.__name__} needs `{key}`{meaning}"


def _expected(error: ErrorDetails) -> str:
    known = EXPECTED.get(error["type"])
    if known is not None:
        return known
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"])
    if error["type"] == "too_short":
        return f"{error['ctx']['min_length']} or more entries"
    if error["type"] == "too_long":
        return f"no more than {error['ctx']['max_length']} entries"
    return error["msg"].removeprefix("Input should be ").removeprefix("Input should ")


def _tags(annotation: Any) -> tuple[str, ...]:
    return tuple(kind for section in sections(annotation) for kind in kinds(section))


def _literals(group: list[tuple[Location, ErrorDetails]]) -> tuple[str, ...]:
    """The words that a value could have been, as pydantic lists them."""
    return tuple(
        word
        for _, error in group
        if error["type"] == "literal_error"
        for word in str(error["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
    )


def _one_of(words: tuple[str, ...]) -> str:
    return " or ".join(repr(word) for word in words)


def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def shown(value: object) -> str:
    """The value as YAML writes it, cut at 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
