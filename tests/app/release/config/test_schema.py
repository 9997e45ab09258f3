"""The strict models of `serve_config.yaml`, compared with Ray's own."""

import copy
from typing import Any

import pytest
import yaml
from ray.serve import schema as ray_schema
from ray.serve.config import AutoscalingConfig

from app.core.errors import SettingsError
from app.release.config import schema
from tests.system import PROJECT_DIR

CONFIG = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())


@pytest.mark.parametrize(
    ("model", "rays"),
    [
        (schema.ServeConfig, ray_schema.ServeDeploySchema),
        (schema.HttpOptions, ray_schema.HTTPOptionsSchema),
        (schema.GrpcOptions, ray_schema.gRPCOptionsSchema),
        (schema.LoggingOptions, ray_schema.LoggingConfig),
        (schema.Application, ray_schema.ServeApplicationSchema),
        (schema.Deployment, ray_schema.DeploymentSchema),
        (schema.Autoscaling, AutoscalingConfig),
        (schema.ActorOptions, ray_schema.RayActorOptionsSchema),
    ],
)
def test_every_level_has_the_keys_that_ray_has(model: Any, rays: Any):
    assert set(model.model_fields) == set(rays.model_fields)


def changed(place: tuple[str | int, ...], value: object) -> dict[str, Any]:
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    inner: Any = config
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    return config


INGRESS = ("applications", 0, "deployments", 0)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("http_option",),
            {},
            "http_option: unknown name 'http_option', did you mean 'http_options'",
        ),
        (("http_options", "prt"), 1, r"http_options\.prt"),
        (("logging_config", "level"), "INFO", r"logging_config\.level"),
        (
            ("applications", 1, "route_prefx"),
            None,
            r"applications\[1\]\.route_prefx.*did you mean 'route_prefix'",
        ),
        ((*INGRESS, "num_replica"), 1, r"applications\[0\]\.deployments\[0\]\.num_replica"),
        ((*INGRESS, "ray_actor_options", "num_cpu"), 1, "did you mean 'num_cpus'"),
        (
            ("applications", 1, "deployments", 0, "autoscaling_config", "max_replica"),
            3,
            "did you mean 'max_replicas'",
        ),
        (
            ("applications", 1, "args", "checkpiont"),
            "x",
            r"args\.checkpiont.*did you mean 'checkpoint'",
        ),
        (("applications", 0, "args", "timeout"), 3, r"args\.timeout"),
        ((*INGRESS, "user_config", "trafic"), {}, r"user_config\.trafic.*did you mean 'traffic'"),
        (
            (*INGRESS, "user_config", "traffic", "shadows"),
            ["9"],
            "expected shadows that are released, found 9",
        ),
        (
            (*INGRESS, "user_config", "traffic", "shadow"),
            ["1"],
            r"traffic\.shadow: unknown name 'shadow'",
        ),
        ((*INGRESS, "user_config", "thresholds", "wach"), 0.1, r"thresholds\.wach"),
        (
            (*INGRESS, "user_config", "traffic", "releases", 0, "wieght"),
            1,
            r"releases\[0\]\.wieght",
        ),
        (
            (*INGRESS, "user_config", "traffic", "releases", 0, "weight"),
            77,
            "weights that sum to 100, found 77",
        ),
        (
            (*INGRESS, "user_config", "traffic", "releases", 0, "application"),
            "model-9",
            "application 'model-9'",
        ),
        ((*INGRESS, "user_config"), None, "user_config"),
        ((*INGRESS, "name"), "Ingres", "did you mean 'Ingress'"),
        (("applications", 1, "deployments", 0, "user_config"), {"loging": {}}, "loging"),
        (("applications", 2, "name"), "model-1", "'model-1' is listed twice"),
        (("applications", 0, "import_path"), "app.other:thing", "found 0"),
        (("applications", 1, "deployments", 0, "num_replicas"), 2, "found both"),
        (("http_options", "port"), "eight", r"http_options\.port.*found 'eight'"),
    ],
)
def test_mistake_is_refused_with_its_place(
    place: tuple[str | int, ...], value: object, message: str
):
    with pytest.raises(SettingsError, match=message):
        schema.read_schema(changed(place, value), "serve_config.yaml")


def test_shipped_file_is_valid():
    config = schema.read_schema(CONFIG, "serve_config.yaml")
    assert [release.version for release in config.traffic.releases] == ["1", "2"]
    assert config.model_args("model-1").checkpoint == "app/weights/1"
