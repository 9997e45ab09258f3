"""Rules for every pod, as functions that return what breaks them; each also finds a broken pod.

They are a short list of our own: checkov and its like bring a hundred packages, and their rules see
no pod of a RayService.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest

from tests.cluster.kubernetes.manifests import (
    OVERLAYS,
    ROOTS,
    Manifest,
    Pod,
    of_kind,
    pods,
    render,
)

SECRETS = {
    "hydraulic-database": {"dsn", "password"},
    "hydraulic-database-ca": {"ca.pem"},
    "hydraulic-api-key": {"api-key"},
    "hydraulic-redis": {"password"},
    "hydraulic-ray-token": {"auth_token"},
    "hydraulic-storage": {
        "HYDRAULIC_STORAGE_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
    },
}  # fmt: skip
"""Secrets with their keys that an operator creates; the guide has the commands."""
CALLERS = {"ray-head", "ray-worker", "fleet-scoring"}
"""Accounts whose pods call the API server."""
SECRET_NAMES = ("PASSWORD", "TOKEN", "DSN", "API_KEY", "SECRET")


def names(found: list[Manifest]) -> dict[str, Manifest]:
    return {each["name"]: each for each in found}


def no_root(pod: Pod) -> Iterator[str]:
    context = pod.spec.get("securityContext", {})
    if not (context.get("runAsNonRoot") and context.get("runAsUser", 0) > 0):
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    for container in pod.containers:
        if container.get("securityContext", {}).get("runAsUser", 1) == 0:
            yield f"{container['name']} runs as root"


def no_privileges(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{container['name']} may gain privileges"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']} keeps capabilities"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"has {key}"
    for volume in pod.spec.get("volumes", ()):
        if "hostPath" in volume:
            yield f"mounts {volume['name']} of the node"


def read_only_root(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']} may write to its image"


def bounded(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        resources = container.get("resources", {})
        for part in ("requests", "limits"):
            for key in ("cpu", "memory"):
                if key not in resources.get(part, {}):
                    yield f"{container['name']} has no {part} of {key}"
    for volume in pod.spec.get("volumes", ()):
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} has no limit"


def probed(pod: Pod) -> Iterator[str]:
    if pod.owner["kind"] == "CronJob":
        return  # a job ends by itself, within activeDeadlineSeconds
    for container in pod.spec["containers"]:
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind)
            if probe is None:
                yield f"{container['name']} has no {kind}"
            elif not 2 <= probe.get("timeoutSeconds", 1) <= probe["periodSeconds"]:
                yield f"{container['name']}: {kind} waits longer than its period, or too short"
        start, live = (container.get(kind, {}) for kind in ("startupProbe", "livenessProbe"))
        if start and start["periodSeconds"] * start["failureThreshold"] < 60:
            yield f"{container['name']} has less than a minute to start"
        if live and live["periodSeconds"] * live["failureThreshold"] < 60:
            yield f"{container['name']} is killed after less than a minute"
        ports = names(container.get("ports", []))
        for probe in (container.get("readinessProbe", {}), live, start):
            for action in (probe.get("httpGet", {}), probe.get("tcpSocket", {})):
                if isinstance(port := action.get("port"), str) and port not in ports:
                    yield f"{container['name']} has no port {port}"


def tagged(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        _, _, tag = container["image"].rpartition("/")[2].partition(":")
        if not tag or tag.startswith("latest"):
            yield f"{container['name']} has the image {container['image']}, which may change"


def no_plain_secrets(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        for source in container.get("envFrom", ()):
            if source.get("secretRef", {}).get("name") not in SECRETS:
                yield f"{container['name']} refers to an unknown secret {source}"
        for variable in container.get("env", ()):
            is_secret = any(part in variable["name"] for part in SECRET_NAMES)
            if is_secret and "value" in variable:
                yield f"{container['name']} has the value of {variable['name']}"
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and reference["key"] not in SECRETS.get(reference["name"], ()):
                yield f"{container['name']} refers to an unknown secret {reference}"


def tokens_where_needed(pod: Pod) -> Iterator[str]:
    account = pod.spec.get("serviceAccountName", "default")
    if account == "default":
        yield "has the account of the namespace"
    if pod.spec.get("automountServiceAccountToken") is not (account in CALLERS):
        yield f"has a token of {account}, or lacks it"


def mounts_are_there(pod: Pod) -> Iterator[str]:
    claims = names([each["metadata"] for each in pod.owner["spec"].get("volumeClaimTemplates", ())])
    volumes = {**names(pod.spec.get("volumes", [])), **claims}
    for container in pod.containers:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"{container['name']} mounts {mount['name']}, which is no volume"
        variables = names(container.get("env", []))
        places = {mount["mountPath"] for mount in container.get("volumeMounts", ())}
        for name in ("HOME", "HYDRAULIC_VAR_DIR"):
            if name in variables and variables[name]["value"] not in places:
                yield f"{container['name']} can't write to its {name}"


RULES: tuple[Callable[[Pod], Iterator[str]], ...] = (
    no_root, no_privileges, read_only_root, bounded, probed, tagged, no_plain_secrets,
    tokens_where_needed, mounts_are_there,
)  # fmt: skip
BROKEN: Mapping[Callable[[Pod], Iterator[str]], tuple[str, Any]] = {
    no_root: ("securityContext", {}),
    no_privileges: ("containers.0.securityContext", {"privileged": True}),
    read_only_root: ("containers.0.securityContext.readOnlyRootFilesystem", False),
    bounded: ("containers.0.resources.limits", {}),
    probed: ("containers.0.livenessProbe.timeoutSeconds", 1),
    tagged: ("containers.0.image", "hydraulic-diagnostics:latest"),
    no_plain_secrets: (
        "containers.0.env",
        [{"name": "HYDRAULIC_DSN", "value": "postgresql://user:password@host/database"}],
    ),
    tokens_where_needed: ("automountServiceAccountToken", False),
    mounts_are_there: ("volumes", []),
}
"""A place and a value there that each rule has to find."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("root", ROOTS)
def test_every_pod_follows(root: str, rule: Callable[[Pod], Iterator[str]]):
    found = pods(render(root))
    assert len(found) >= 2
    assert [f"{pod.name}: {fault}" for pod in found for fault in rule(pod)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_pod_that_breaks_the_rule_is_found(rule: Callable[[Pod], Iterator[str]]):
    pod = pods([*of_kind(render(OVERLAYS[0]), "RayService").values()])[0]
    assert list(rule(pod)) == []
    spec = deepcopy(pod.spec)
    place, value = BROKEN[rule]
    *path, last = place.split(".")
    part: Any = spec
    for step in path:
        part = part[int(step) if step.isdigit() else step]
    part[last] = value
    assert list(rule(pod._replace(spec=spec)))


@pytest.mark.parametrize("root", OVERLAYS)
def test_autoscaler_follows_too(root: str):
    """KubeRay adds this container to the head; the manifest has its settings only."""
    (service,) = of_kind(render(root), "RayService").values()
    options = service["spec"]["rayClusterConfig"]["autoscalerOptions"]
    head = pods([service])[0]
    container = {"name": "autoscaler", "image": "of-the-head:1", **options}
    beside = head._replace(spec={**head.spec, "containers": [container]})
    rules = (no_root, no_privileges, read_only_root, no_plain_secrets, mounts_are_there)
    assert [fault for rule in rules for fault in rule(beside)] == []
    assert {"requests", "limits"} <= options["resources"].keys()


@pytest.mark.parametrize("root", ROOTS)
def test_no_secret_is_in_the_manifests(root: str):
    assert of_kind(render(root), "Secret") == {}
    text = str(render(root))
    assert "://" not in text.replace("http://", "").replace("https://", ""), "an address with one?"


@pytest.mark.parametrize("root", OVERLAYS)
def test_accounts_of_pods_are_there_and_only_one_may_change_releases(root: str):
    resources = render(root)
    accounts = of_kind(resources, "ServiceAccount")
    assert {pod.spec["serviceAccountName"] for pod in pods(resources)} <= accounts.keys()
    assert all(each["automountServiceAccountToken"] is False for each in accounts.values())
    roles, bindings = of_kind(resources, "Role"), of_kind(resources, "RoleBinding")
    rules = {
        (subject["name"], resource, verb): rule.get("resourceNames", ["*"])
        for binding in bindings.values()
        for subject in binding["subjects"]
        for rule in roles[binding["roleRef"]["name"]]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    changing = {
        key: named for key, named in rules.items() if key[2] not in {"get", "list", "watch"}
    }
    assert changing == {
        ("release", "rayservices", "patch"): ["hydraulic-diagnostics"],
        ("release", "leases", "update"): ["hydraulic-diagnostics-release"],
        ("release", "leases", "create"): ["*"],
    }
    assert {account for account, _, _ in rules} == {"release", "ray-worker", "fleet-scoring"}
    assert not any("*" in (resource, verb) for _, resource, verb in rules)


@pytest.mark.parametrize("root", OVERLAYS)
def test_budgets_can_be_followed(root: str):
    """KubeRay's pods have no scale, so a budget of them is a whole number below their least."""
    resources = render(root)
    least: dict[str, int] = {}
    for cluster in of_kind(resources, "RayService").values():
        for group in cluster["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
            component = group["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
            least[component] = least.get(component, 0) + group["minReplicas"]
    for budget in of_kind(resources, "PodDisruptionBudget").values():
        spec = budget["spec"]
        assert "maxUnavailable" not in spec
        component = spec["selector"]["matchLabels"]["app.kubernetes.io/component"]
        assert spec["minAvailable"] < least[component]
