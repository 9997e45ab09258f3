"""Monitoring on Kubernetes: rules that promtool accepts, dashboards, and targets that are there."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.kubernetes.manifests import (
    OVERLAYS,
    TRAININGS,
    Pod,
    of_kind,
    pods,
    render,
)
from tests.cluster.kubernetes.test_network import selects
from tests.cluster.monitoring.debian import installed
from tests.cluster.monitoring.test_alerts import MONITORING, read_rules


def test_rules_are_those_of_the_file_and_pass_promtool(tmp_path: Path):
    promtool = installed("promtool")
    (rule,) = of_kind(render(OVERLAYS[0]), "PrometheusRule").values()
    assert rule["spec"] == read_rules()
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(
        [promtool, "check", "rules", "--lint-fatal", str(tmp_path / "rules.yaml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("root", OVERLAYS)
def test_every_dashboard_is_in_a_config_map(root: str):
    found = of_kind(render(root), "ConfigMap")
    stored = {path.name: path.read_text() for path in (MONITORING / "dashboards").glob("*.json")}
    given = {name: text for each in found.values() for name, text in each["data"].items()}
    assert given == stored
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in found.values())
    # a ConfigMap holds 1 MiB, and `kubectl apply` keeps it once more in an annotation of 256 KiB
    assert all(len(text.encode()) < 250_000 for text in given.values())


def targets(root: str) -> dict[str, list[Pod]]:
    """Return the pods that each PodMonitor selects, by its name."""
    found = [*pods(render(root)), *(pod for each in TRAININGS for pod in pods(render(each)))]
    return {
        name: [pod for pod in found if selects(monitor["spec"]["selector"], pod.labels)]
        for name, monitor in of_kind(render(root), "PodMonitor").items()
    }


@pytest.mark.parametrize("root", OVERLAYS)
def test_targets_have_the_ports_of_their_monitors(root: str):
    monitors = of_kind(render(root), "PodMonitor")
    for name, selected in targets(root).items():
        assert selected
        for endpoint in monitors[name]["spec"]["podMetricsEndpoints"]:
            for pod in selected:
                names = {port["name"] for port in pod.spec["containers"][0].get("ports", ())}
                assert endpoint["port"] in names, f"{pod.name} has no port of {name}"
                (relabelled,) = (
                    each for each in endpoint["relabelings"] if each["targetLabel"] == "job"
                )
                assert relabelled["replacement"] == name


@pytest.mark.parametrize("root", OVERLAYS)
def test_the_service_is_scraped_once(root: str):
    """Each answer of `/metrics` has the metrics of all replicas."""
    assert [pod.name for pod in targets(root)["hydraulic"]] == [
        "RayService hydraulic-diagnostics, head"
    ]


@pytest.mark.parametrize("root", OVERLAYS)
def test_rays_own_metrics_are_on_where_they_are_scraped(root: str):
    for pod in targets(root)["ray"]:
        values = {each["name"]: each.get("value") for each in pod.spec["containers"][0]["env"]}
        assert values["RAY_enable_metrics_collection"] == "1", pod.name
