"""Generated manifests are those of their sources, and Ray and the project accept their content."""

import shlex
from typing import Any

import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from app.release.config.schema import read_schema
from cluster.kubernetes.generate import DEMO, SERVE_CONFIG, VARIANTS, documents, serve_config
from tests.cluster.compose_file import read_compose
from tests.cluster.kubernetes.manifests import (
    NAME,
    OVERLAYS,
    TRAININGS,
    Manifest,
    of_kind,
    pods,
    ray_cluster,
    render,
)
from tests.docs.test_documents import hydraulic
from tests.system import PROJECT_DIR
from tests.test_serve_config import unknown_keys

SOURCE: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text())
CHANGED = {
    "http_options.host",
    "applications.diagnostics.args.equipment",
    "applications.live-demo",
    "min_replicas",
    "max_replicas",
    "num_gpus",
}
"""What an overlay may change: whole places, and names of fields in any place."""


def service(root: str) -> Manifest:
    return of_kind(render(root), "RayService")[NAME]


def config(root: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(service(root)["spec"]["serveConfigV2"])
    return loaded


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Return the leaves of a configuration by place; items of lists by their names."""
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        pairs = [(str(each.get("name", number)), each) for number, each in enumerate(value)]
    else:
        return {place: value}
    found = {}
    for key, item in pairs:
        found |= flat(item, f"{place}.{key}" if place else key)
    return found


def test_files_are_those_of_their_sources():
    for path, text in documents().items():
        assert path.read_text() == text, "run python -m cluster.kubernetes.generate"


@pytest.mark.parametrize("root", OVERLAYS)
def test_serve_config_differs_from_the_file_in_what_the_overlay_says(root: str):
    before, after = flat(SOURCE), flat(config(root))
    changed = {
        place for place in before.keys() | after.keys() if before.get(place) != after.get(place)
    }
    unexpected = {
        place
        for place in changed
        if not any(
            place == known or place.startswith(f"{known}.") or place.endswith(f".{known}")
            for known in CHANGED
        )
    }
    assert unexpected == set()
    assert after["http_options.host"] == "0.0.0.0"


@pytest.mark.parametrize("root", OVERLAYS)
def test_serve_and_the_project_accept_the_configuration(root: str):
    found = config(root)
    known = ServeDeploySchema.model_validate(found).model_dump(exclude_unset=True)
    assert unknown_keys(found, known) == []
    assert read_schema(found, root).diagnostics.name == "diagnostics"


def test_production_has_no_demonstration_and_two_replicas_of_everything():
    for root in ("overlays/cpu", "overlays/gpu"):
        paths = {application["import_path"] for application in config(root)["applications"]}
        assert paths == {"app.main:diagnostics", "app.main:model"}
    scaled = [
        deployment["autoscaling_config"]
        for application in config("overlays/cpu")["applications"]
        for deployment in application["deployments"]
    ]
    assert all(each["min_replicas"] == 2 and each["max_replicas"] == 8 for each in scaled)
    assert DEMO in {each["import_path"] for each in config("overlays/dev")["applications"]}


def test_models_of_the_gpu_overlay_and_no_others_want_gpus():
    for root, wanted in (("overlays/cpu", 0), ("overlays/gpu", 1), ("overlays/dev", 0)):
        for application in config(root)["applications"]:
            for deployment in application["deployments"]:
                is_model = deployment["name"] == "Model"
                options = deployment["ray_actor_options"]
                assert options.get("num_gpus", 0) == (wanted if is_model else 0)


def test_more_replicas_than_the_least_stay():
    text = SERVE_CONFIG.read_text().replace("max_replicas: 2", "max_replicas: 20")
    (most,) = {
        each["autoscaling_config"]["max_replicas"]
        for application in yaml.safe_load(serve_config(VARIANTS["cpu"], text))["applications"]
        for each in application["deployments"]
    }
    assert most == 20


def test_replicas_fit_on_the_least_workers():
    for root in OVERLAYS:
        (group,) = (
            each
            for each in ray_cluster(service(root))["workerGroupSpecs"]
            if each["groupName"] == "cpu"
        )
        (container,) = group["template"]["spec"]["containers"]
        cpus = int(container["resources"]["limits"]["cpu"]) * group["minReplicas"]
        wanted = sum(
            deployment["ray_actor_options"]["num_cpus"]
            * deployment.get("autoscaling_config", {"min_replicas": 1})["min_replicas"]
            for application in config(root)["applications"]
            for deployment in application["deployments"]
        )
        assert wanted <= cpus


def test_ray_is_the_pinned_one():
    (pinned,) = (
        line.partition("==")[2]
        for line in (PROJECT_DIR / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert pinned == ray.__version__
    found = [service(root) for root in OVERLAYS]
    found += [of_kind(render(root), "RayJob")["training"] for root in TRAININGS]
    assert {ray_cluster(each)["rayVersion"] for each in found} == {pinned}


def test_cluster_follows_the_conventions_of_the_design():
    for root in OVERLAYS:
        spec, cluster = service(root)["spec"], ray_cluster(service(root))
        assert spec["excludeHeadPodFromServeSvc"] is True
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
        assert cluster["authOptions"]["mode"] == "token"
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (gpu,) = (
        each
        for each in ray_cluster(service("overlays/gpu"))["workerGroupSpecs"]
        if each["groupName"] == "gpu"
    )
    assert gpu["minReplicas"] == 0
    pod = gpu["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {each["key"] for each in pod["tolerations"]} == {"nvidia.com/gpu"}


def test_a_node_has_the_time_to_drain():
    for pod in pods(render("overlays/gpu")):
        container = pod.spec["containers"][0]
        values = {each["name"]: each.get("value") for each in container.get("env", ())}
        drain = values.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S")
        if drain is None:
            assert pod.owner["kind"] != "RayService", pod.name
            continue
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {"seconds": 0})
        assert float(drain) + pause["seconds"] + 30 <= pod.spec["terminationGracePeriodSeconds"]


def test_database_of_the_trial_is_in_no_other_overlay():
    for root in ("overlays/cpu", "overlays/gpu"):
        assert set(of_kind(render(root), "StatefulSet")) == {"redis"}
    trial = of_kind(render("overlays/dev"), "StatefulSet")
    assert set(trial) == {"redis", "timescaledb"}
    (container,) = trial["timescaledb"]["spec"]["template"]["spec"]["containers"]
    # a dump of one can be restored into the other
    assert container["image"] == read_compose({})["services"]["timescaledb"]["image"]


@pytest.mark.parametrize("root", TRAININGS)
def test_entrypoint_of_the_training_is_a_command(root: str):
    job = of_kind(render(root), "RayJob")["training"]
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[0] == "hydraulic"
    assert hydraulic(words[1:]).command_path == "hydraulic train start"
