"""Walks a pydantic schema beside a tree of values. Knows which section stands where; validates nothing.

Unions of sections are told apart by the key `kind`, everywhere in this project.
"""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from data_prep.contract.strict_yaml.tree import Node

KIND = "kind"


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a (nested, annotated, optional) union without None; one member for anything else."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return tuple(member for part in get_args(annotation) for member in alternatives(part))
    return () if annotation in (None, NoneType) else (annotation,)


def sections(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The sections that may stand at this place."""
    return tuple(
        member for member in alternatives(annotation) if isinstance(member, type) and issubclass(member, BaseModel)
    )


def kinds(section: type[BaseModel]) -> tuple[str, ...]:
    """The values of `kind` that choose this section; empty where it has none."""
    chosen = section.model_fields.get(KIND)
    if chosen is None or get_origin(chosen.annotation) is not Literal:
        return ()
    return tuple(str(value) for value in get_args(chosen.annotation))


def given_kind(node: Node) -> object:
    """The `kind` that a map gives; None where it gives none."""
    if not isinstance(node.value, dict) or KIND not in node.value:
        return None
    return node.value[KIND].value


def section_at(annotation: Any, node: Node) -> type[BaseModel] | None:
    """The section that this value is meant to be; None where the schema expects none or `kind` does not tell."""
    candidates = sections(annotation)
    if len(candidates) == 1:
        return candidates[0]
    return next((section for section in candidates if given_kind(node) in kinds(section)), None)


def annotation_below(annotation: Any, node: Node, *, key: str | int) -> Any:
    """The annotation of one entry of a section, free map or list; None where the schema has none there."""
    if isinstance(key, str) and (section := section_at(annotation, node)) is not None:
        return section.model_fields[key].annotation if key in section.model_fields else None
    for member in alternatives(annotation):
        arguments = get_args(member)
        if isinstance(key, str) and get_origin(member) is dict:
            return arguments[1]
        if isinstance(key, int) and get_origin(member) in (tuple, list, frozenset, set) and arguments:
            is_uniform = len(arguments) == 1 or arguments[-1] is Ellipsis
            return arguments[0] if is_uniform else arguments[min(key, len(arguments) - 1)]
    return None
