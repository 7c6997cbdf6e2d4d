"""Every field of a rendered JobSet is known to Kubernetes: a key that is slightly wrong would be ignored or refused."""

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.unit.kubernetes_manifests import MANIFESTS, job


def strict(schema: Any) -> Any:
    """The schema of a resource definition, in which keys that it does not name are wrong, as for the server."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(part) for name, part in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        found.pop("anyOf", None)
        found["type"] = ["integer", "string"]
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.parametrize("rendered", MANIFESTS.values(), ids=MANIFESTS)
def test_kubernetes_knows_every_field_of_the_job(rendered: dict[str, Any]) -> None:
    """JobSet's own schema repeats that of a Job, without its rules."""
    kubernetes_validate.validate(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, **job(rendered)}, "1.37", strict=True
    )


@pytest.mark.parametrize("place", [("backofLimit", 0), ("parallelism", "four")], ids=str)
def test_the_check_of_fields_finds_a_slip(place: tuple[str, Any]) -> None:
    wrong = copy.deepcopy(job(MANIFESTS["plain"]))
    wrong["spec"][place[0]] = place[1]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({"apiVersion": "batch/v1", "kind": "Job", **wrong}, "1.37", strict=True)


@pytest.mark.parametrize("rendered", MANIFESTS.values(), ids=MANIFESTS)
def test_jobset_knows_every_field(rendered: dict[str, Any], repository: Path) -> None:
    """Where its resource definition lies beside the repository; the Job within it is checked in any case."""
    data = Path(os.environ.get("WELLSPRING_DATA", repository.parent / "shared" / "data"))
    definition = data / "crds" / "jobset-crd.yaml"
    if not definition.exists():
        pytest.skip(f"{definition} is not there; the Job within the JobSet is checked all the same")
    version = yaml.load(definition.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["spec"]["versions"][0]
    assert rendered["apiVersion"] == f"jobset.x-k8s.io/{version['name']}"
    validator = jsonschema.Draft7Validator(strict(version["schema"]["openAPIV3Schema"]))
    assert [error.message for error in validator.iter_errors(rendered | {"metadata": {}})] == []
