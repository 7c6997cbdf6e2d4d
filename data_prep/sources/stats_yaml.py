"""Statistics in the words of The Well's `stats.yaml`, and the comparison with a shipped one.

Shipped statistics are never used, only compared: a published one is known to be wrong.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from data_prep.contract.errors import NotFoundError
from data_prep.contract.fields import DatasetSpec, Field
from data_prep.contract.manifest import Moments
from data_prep.contract.storage import Storage
from data_prep.sources.corpus_source import is_address

STATS_NAME = "stats.yaml"
MAX_STATS_BYTES = 2**20
TOLERANCE = 1e-3
"""Shipped statistics have five significant digits."""

Statistics = dict[str, Moments]
"""By channel."""


def describe(spec: DatasetSpec, statistics: Statistics) -> dict[str, dict[str, Any]]:
    """Six maps by field name: a number, a list for a vector, a list of lists for a tensor."""
    result: dict[str, dict[str, Any]] = {}
    for key in ("mean", "std", "rms", "mean_delta", "std_delta", "rms_delta"):
        fields = spec.fields if key.endswith("_delta") else spec.fields + spec.constant_fields
        result[key] = {field.name: _nested(field, spec, statistics, key) for field in fields}
    return result


def _nested(field: Field, spec: DatasetSpec, statistics: Statistics, key: str) -> Any:
    values = [statistics[name].__dict__[key] for name in field.component_names(spec.spatial_dims)]
    shape = (len(spec.spatial_dims),) * field.rank
    return np.array(values, float).reshape(shape).tolist()


def shipped_disagreements(source: Storage, spec: DatasetSpec, statistics: Statistics) -> list[str]:
    """What a `stats.yaml` beside the data says differently; empty when there is none, or SOURCE is no place."""
    if is_address(source.url):
        return []
    try:
        text = source.get(STATS_NAME, max_bytes=MAX_STATS_BYTES)
    except NotFoundError:
        return []
    where = source.locate(STATS_NAME)
    try:
        shipped = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"{where}: is no YAML and was not compared: {error}"]
    if not isinstance(shipped, dict):
        return [f"{where}: is no map and was not compared"]
    return [f"{where}: {line}" for line in _compare(shipped, spec, statistics)]


def _compare(shipped: dict[Any, Any], spec: DatasetSpec, statistics: Statistics) -> Iterator[str]:
    ours = describe(spec, statistics)
    for key, fields in ours.items():
        theirs = shipped.get(key)
        for name, expected in fields.items():
            found = theirs.get(name) if isinstance(theirs, dict) else None
            if found is None:
                yield f"{key} of `{name}` is missing"
                continue
            try:
                values = np.array(found, float)
            except (TypeError, ValueError):
                yield f"{key} of `{name}` is {str(found)[:80]}, which is no number"
                continue
            if not _agree(values, np.array(expected, float), scale=np.array(ours[_scale_of(key)][name], float)):
                yield f"{key} of `{name}` is {found}, but the train split has {_rounded(expected)}"


def _scale_of(key: str) -> str:
    """A mean near zero is compared on the scale of its field, not on its own."""
    return "rms_delta" if key.endswith("_delta") else "rms"


def _agree(found: Any, expected: Any, *, scale: Any) -> bool:
    return found.shape == expected.shape and bool(np.all(np.abs(found - expected) <= TOLERANCE * np.abs(scale)))


def _rounded(value: Any) -> Any:
    return [_rounded(item) for item in value] if isinstance(value, list) else float(f"{value:.5g}")
