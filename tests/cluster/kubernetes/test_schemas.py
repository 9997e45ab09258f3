"""Every manifest is valid: by kubectl, by the schemas of Kubernetes and of the custom resources.

An API server prunes keys that a schema of a custom resource does not list, so that a misspelt one
has no effect and no error. Here it fails the test. Those schemas are beside the project, in
`../shared/schemas`; where they are absent the tests of custom resources say so and are skipped.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.cluster.kubernetes.manifests import (
    MANIFESTS,
    OVERLAYS,
    ROOTS,
    Manifest,
    kustomize,
    of_kind,
    pods,
    render,
)
from tests.system import PROJECT_DIR

SCHEMAS = PROJECT_DIR.parent / "shared/schemas"
CUSTOM = {
    "RayService": "rayservice_v1",
    "RayJob": "rayjob_v1",
    "PodMonitor": "podmonitor_v1",
    "PrometheusRule": "prometheusrule_v1",
}
VERSIONS = ("1.32", kubernetes_validate.latest_version())
"""Of Kubernetes; the pause of `preStop` needs 1.30."""
KEPT = "x-kubernetes-preserve-unknown-fields"


def strict(schema: Any) -> Any:
    """Return a structural schema that refuses what it does not list."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(KEPT):
        closed.setdefault("additionalProperties", False)
    if isinstance(pattern := schema.get("pattern"), str):
        # Go takes a flag after the anchor, Python before it
        closed["pattern"] = pattern.replace("^(?i)", "(?i)^")
    return closed


@cache
def validator(kind: str) -> jsonschema.Draft7Validator:
    path = SCHEMAS / f"{CUSTOM[kind]}.json"
    if not path.is_file():
        pytest.skip(f"expected the schema of {kind} in {path}, found none: nothing was checked")
    schema = strict(json.loads(path.read_text()))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def errors(resource: Manifest) -> list[str]:
    """Return what the schema of a custom resource refuses."""
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator(resource["kind"]).iter_errors(resource)
    ]


@pytest.mark.parametrize("root", ROOTS)
def test_kubectl_renders_without_a_warning(root: str):
    resources = render(root)
    names = [(each["kind"], each["metadata"]["name"]) for each in resources]
    assert len(names) == len(set(names)) > 1
    assert all(
        each["metadata"].get("namespace") == "hydraulic-diagnostics"
        for each in resources
        if each["kind"] != "Namespace"
    )


def test_the_component_gives_the_ingress_the_role(tmp_path: Path):
    overlay = tmp_path / "kustomization.yaml"
    parts = MANIFESTS.resolve()
    # kustomize wants relative paths
    up = "/".join([".."] * (len(tmp_path.resolve().parts) - 1))
    overlay.write_text(
        f"resources: [{up}{parts}/overlays/cpu]\ncomponents: [{up}{parts}/components/release]\n"
        "namespace: hydraulic-diagnostics\n"
    )
    done = kustomize(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("name: ingress-releases\n") == 1


def different(found: Iterable[Manifest]) -> list[Manifest]:
    """Return the manifests without those that another root has too."""
    return [*{json.dumps(each, sort_keys=True): each for each in found}.values()]


@pytest.fixture
def kept_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the files of kubernetes-validate, which reads all definitions for every resource."""
    monkeypatch.setattr(
        kubernetes_validate.utils,
        "schema_contents",
        cache(kubernetes_validate.utils.schema_contents),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_kinds_of_kubernetes_are_valid(version: str, kept_schemas: None):
    found = different(each for root in ROOTS for each in render(root) if each["kind"] not in CUSTOM)
    assert len(found) > 30
    for resource in found:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_of_every_resource_are_valid(version: str, kept_schemas: None):
    found = different(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod", "labels": pod.labels},
            "spec": pod.spec,
        }
        for root in ROOTS
        for pod in pods(render(root))
    )
    assert len(found) > 5
    for pod in found:
        kubernetes_validate.validate(pod, version, strict=True)


def test_a_wrong_key_of_a_kind_of_kubernetes_is_found(kept_schemas: None):
    budget = of_kind(render(OVERLAYS[0]), "PodDisruptionBudget")["ray-worker"]
    budget["spec"]["minAvailble"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="minAvailble"):
        kubernetes_validate.validate(budget, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_resources_have_no_unknown_key(kind: str):
    found = [each for root in ROOTS for each in render(root) if each["kind"] == kind]
    assert found
    for resource in found:
        assert errors(resource) == [], resource["metadata"]["name"]


def test_a_misspelt_key_of_any_depth_is_found():
    service = of_kind(render(OVERLAYS[0]), "RayService")["hydraulic-diagnostics"]
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0][
        "livenesProbe"
    ] = {}
    service["spec"]["serveConfig"] = ""
    found = errors(service)
    assert len(found) == 2
    assert any("livenesProbe" in each for each in found)


def test_every_kind_is_one_that_is_checked():
    builtin = {
        "Namespace", "ServiceAccount", "Role", "RoleBinding", "Service", "StatefulSet", "CronJob",
        "NetworkPolicy", "PodDisruptionBudget", "ConfigMap",
    }  # fmt: skip
    kinds = {each["kind"] for root in ROOTS for each in render(root)}
    assert kinds == builtin | CUSTOM.keys()
