"""Nodes of an HDF5 file and their attributes, each read with a check: what `well_header` is written in.

Raises RefusedError naming file and place.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from data_prep.contract.errors import RefusedError

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


class Node(Protocol):
    """A group or an array of an HDF5 file; each method raises RefusedError naming the place."""

    @property
    def place(self) -> str:
        """File and path, for messages."""

    def group(self, name: str) -> "Node":
        """A child that must be a group."""

    def array(self, name: str) -> "Node":
        """A child that must be an array inside this very file."""

    def children(self) -> list[str]:
        """Names, sorted."""

    def attribute(self, name: str) -> Any:
        """The value of an attribute, None when there is none."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an array."""

    def read(self) -> np.ndarray[Any, Any]:
        """A whole (small) array."""


def required(node: Node, name: str) -> Any:
    value = node.attribute(name)
    if value is None:
        raise RefusedError(f"{node.place}: has no attribute `{name}`; The Well's format demands it")
    return value


def plain(value: Any) -> Any:
    """Strings come as str, bytes or arrays of one; bytes that are no UTF-8 are shown as such, and match no name."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def names_of(node: Node, attribute: str) -> tuple[str, ...]:
    """A list of names; a bare string is one name, and an empty list is stored as an array of float64."""
    value = required(node, attribute)
    values: Sequence[Any] = [value] if isinstance(value, str | bytes) else list(np.atleast_1d(value))
    names = tuple(plain(item) for item in values)
    if not all(isinstance(name, str) for name in names):
        raise wrong(node, attribute, found=names, expected="names")
    if len(set(names)) != len(names):
        raise wrong(node, attribute, found=names, expected="each name once")
    return names


def integer_of(node: Node, attribute: str) -> int:
    value = plain(required(node, attribute))
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise wrong(node, attribute, found=value, expected="a positive integer")
    return int(value)


def flag_of(node: Node, attribute: str, *, default: bool | None = None) -> bool:
    value = node.attribute(attribute)
    value = default if value is None else plain(value)
    value = required(node, attribute) if value is None else value
    if not isinstance(value, bool | np.bool_ | int | np.integer) or value not in (0, 1):
        raise wrong(node, attribute, found=value, expected="true or false")
    return bool(value)


def finite(node: Node, values: np.ndarray[Any, Any]) -> FloatArray:
    if values.dtype.kind not in "fui":
        raise RefusedError(f"{node.place}: has values of type {values.dtype}, expected numbers")
    if not np.isfinite(values).all():
        raise RefusedError(f"{node.place}: holds values that are no finite numbers")
    return np.asarray(values, np.float64)


def wrong(node: Node, attribute: str, *, found: object, expected: str) -> RefusedError:
    return RefusedError(f"{node.place}: attribute `{attribute}` is {found!r}, expected {expected}")
