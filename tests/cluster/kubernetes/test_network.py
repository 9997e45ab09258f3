"""What the network policies allow, by their rules: connections of the system and no others.

A policy is read as Kubernetes defines it: a pod that any policy selects for a direction has only
what the policies of that direction allow. Whether a cluster's network enforces it is not tested.
"""

from typing import Any, NamedTuple

import pytest

from tests.cluster.kubernetes.manifests import NAMESPACE, OVERLAYS, Manifest, of_kind, pods, render

COMPONENT = "app.kubernetes.io/component"
CLUSTER = "hydraulic-diagnostics/cluster"
KUBE_SYSTEM = "kube-system"


class End(NamedTuple):
    """One end of a connection; `namespace` is None for an address outside of the cluster."""

    namespace: str | None
    labels: dict[str, str]
    namespace_labels: dict[str, str]


def end(component: str, cluster: str | None = None) -> End:
    labels = {COMPONENT: component} | ({} if cluster is None else {CLUSTER: cluster})
    return End(NAMESPACE, labels, {"kubernetes.io/metadata.name": NAMESPACE})


def other(namespace: str, labels: dict[str, str] | None = None, **marks: str) -> End:
    return End(namespace, labels or {}, {"kubernetes.io/metadata.name": namespace} | marks)


HEAD, WORKER = end("ray-head", "serving"), end("ray-worker", "serving")
TRAINING_HEAD, TRAINER = end("ray-head", "training"), end("ray-worker", "training")
REDIS, SCORING, TIMESCALE = end("redis"), end("fleet-scoring"), end("timescaledb")
OPERATOR = other("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})
PROMETHEUS, STRANGER, DNS = other("monitoring"), other("default"), other(KUBE_SYSTEM)
CLIENT = End("edge", {}, {"hydraulic-diagnostics/client": "true"})
OUTSIDE = End(None, {}, {})
OWN = {
    "head": HEAD, "worker": WORKER, "training head": TRAINING_HEAD, "trainer": TRAINER,
    "redis": REDIS, "scoring": SCORING,
}  # fmt: skip
ALLOWED = [
    *((each, DNS, 53) for each in (*OWN.values(), TIMESCALE)),
    (CLIENT, WORKER, 8000),
    (PROMETHEUS, HEAD, 8000),
    *((PROMETHEUS, each, 8080) for each in (HEAD, WORKER, TRAINING_HEAD, TRAINER)),
    *((OPERATOR, each, port) for each in (HEAD, TRAINING_HEAD) for port in (8265, 8000)),
    # any port between the nodes of one cluster
    (HEAD, WORKER, 31234), (WORKER, HEAD, 6379), (WORKER, HEAD, 31234), (WORKER, WORKER, 31234),
    (TRAINER, TRAINING_HEAD, 6379), (TRAINING_HEAD, TRAINER, 31234), (TRAINER, TRAINER, 31234),
    (HEAD, REDIS, 6379),
    *((each, OUTSIDE, port) for each in (HEAD, WORKER, SCORING) for port in (443, 6443)),
    *((each, OUTSIDE, 443) for each in (TRAINER, TRAINING_HEAD)),
    *((each, OUTSIDE, 5432) for each in (HEAD, WORKER, SCORING, TRAINER, TRAINING_HEAD)),
]  # fmt: skip
REFUSED = [
    *((STRANGER, each, port) for each in OWN.values() for port in (8000, 8265, 6379, 8080, 5432)),
    (CLIENT, WORKER, 8265), (CLIENT, HEAD, 8000), (CLIENT, HEAD, 8265), (CLIENT, TRAINER, 8000),
    (PROMETHEUS, HEAD, 8265), (PROMETHEUS, WORKER, 8000), (PROMETHEUS, REDIS, 6379),
    (other("kuberay-system"), HEAD, 8265), (OPERATOR, WORKER, 8265),
    (WORKER, REDIS, 6379), (TRAINING_HEAD, REDIS, 6379), (SCORING, REDIS, 6379),
    (TRAINER, WORKER, 8000), (TRAINER, HEAD, 8265), (WORKER, TRAINER, 31234),
    (SCORING, HEAD, 6379), (SCORING, WORKER, 8000), (REDIS, OUTSIDE, 443),
    (WORKER, OUTSIDE, 80), (TRAINER, OUTSIDE, 80), (TRAINER, OUTSIDE, 6443),
    (TIMESCALE, OUTSIDE, 5432),
]  # fmt: skip


def selects(selector: Manifest | None, labels: dict[str, str]) -> bool:
    for key, value in (selector or {}).get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for each in (selector or {}).get("matchExpressions", ()):
        assert each["operator"] == "In", "teach the test this operator"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


def is_peer(peer: Manifest, far: End) -> bool:
    assert peer.keys() <= {"podSelector", "namespaceSelector"}, "teach the test this peer"
    if "namespaceSelector" in peer:
        in_namespace = far.namespace is not None and selects(
            peer["namespaceSelector"], far.namespace_labels
        )
    else:
        in_namespace = far.namespace == NAMESPACE
    return in_namespace and selects(peer.get("podSelector"), far.labels)


def passes(policies: list[Manifest], near: End, far: End, port: int, direction: str) -> bool:
    if near.namespace != NAMESPACE:
        return True  # the policies of others are not ours
    found: list[Any] = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], near.labels)
    ]
    side = "from" if direction == "Ingress" else "to"
    return not found or any(
        (side not in rule or any(is_peer(peer, far) for peer in rule[side]))
        and ("ports" not in rule or any(each["port"] == port for each in rule["ports"]))
        for spec in found
        for rule in spec.get(direction.lower(), ())
    )


def connects(policies: list[Manifest], one: End, two: End, port: int) -> bool:
    return passes(policies, one, two, port, "Egress") and passes(
        policies, two, one, port, "Ingress"
    )


def policies_of(root: str) -> list[Manifest]:
    return [*of_kind(render(root), "NetworkPolicy").values()]


@pytest.mark.parametrize("root", OVERLAYS)
def test_system_connects(root: str):
    policies = policies_of(root)
    assert [each for each in ALLOWED if not connects(policies, *each)] == []


@pytest.mark.parametrize("root", OVERLAYS)
def test_nothing_else_connects(root: str):
    policies = policies_of(root)
    assert [each for each in REFUSED if connects(policies, *each)] == []


def test_database_of_the_trial_is_reached_by_those_who_use_it():
    policies = policies_of("overlays/dev")
    for near in (HEAD, WORKER, SCORING, TRAINING_HEAD, TRAINER):
        assert connects(policies, near, TIMESCALE, 5432)
    for near in (REDIS, CLIENT, PROMETHEUS, STRANGER, OPERATOR):
        assert not connects(policies, near, TIMESCALE, 5432)


def test_without_a_policy_what_it_allows_is_refused():
    """Each policy is needed: without it a connection of the system fails."""
    for root in OVERLAYS:
        policies = policies_of(root)
        wanted = [*ALLOWED, *((each, TIMESCALE, 5432) for each in (WORKER, SCORING))]
        for policy in policies:
            name = policy["metadata"]["name"]
            rest = [each for each in policies if each is not policy]
            if name == "default-deny":
                assert any(connects(rest, *each) for each in REFUSED)
            else:
                assert not all(connects(rest, *each) for each in wanted), name


@pytest.mark.parametrize("root", [*OVERLAYS, "training/cpu", "training/gpu"])
def test_labels_of_pods_are_those_that_policies_select(root: str):
    known = {tuple(sorted(each.labels.items())) for each in (*OWN.values(), TIMESCALE)}
    for pod in pods(render(root)):
        mine = {key: value for key, value in pod.labels.items() if key in {COMPONENT, CLUSTER}}
        assert tuple(sorted(mine.items())) in known, pod.name
        assert pod.labels["app.kubernetes.io/part-of"] == "hydraulic-diagnostics"
