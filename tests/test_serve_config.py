"""`serve_config.yaml` has only keys that Ray Serve knows; Serve accepts unknown ones silently."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from app.core.errors import CheckpointError, SettingsError
from app.main import diagnostics, model
from app.serving.ingress.config import DiagnosticsArgs, IngressConfig, ModelArgs
from tests.system import PROJECT_DIR

CONFIG: dict[str, Any] = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
FREE = {"args", "user_config", "ray_actor_options", "autoscaling_config", "logging_config"}


def unknown_keys(given: dict[str, Any], known: dict[str, Any], place: str = "") -> list[str]:
    """Return the places of keys that a schema dropped from a configuration."""
    found = []
    for key, value in given.items():
        here = f"{place}.{key}" if place else key
        if key not in known:
            found.append(here)
        elif isinstance(value, dict) and key not in FREE:
            found += unknown_keys(value, known[key], here)
        elif isinstance(value, list):
            for index, (item, kept) in enumerate(zip(value, known[key], strict=True)):
                if isinstance(item, dict):
                    found += unknown_keys(item, kept, f"{here}[{index}]")
    return found


def application(name: str) -> dict[str, Any]:
    return next(item for item in CONFIG["applications"] if item["name"] == name)


def test_every_key_is_known_to_serve():
    known = ServeDeploySchema.model_validate(CONFIG).model_dump(exclude_unset=True)
    assert unknown_keys(CONFIG, known) == []


def test_a_misspelt_key_is_found():
    wrong = CONFIG | {"http_option": {}}
    known = ServeDeploySchema.model_validate(wrong).model_dump(exclude_unset=True)
    assert unknown_keys(wrong, known) == ["http_option"]


def test_autoscaling_has_bounds_and_known_keys():
    scaled = 0
    for entry in CONFIG["applications"]:
        for item in entry["deployments"]:
            found = item.get("autoscaling_config")
            if found is None:
                assert item["num_replicas"] == 1
                continue
            scaled += 1
            assert set(found) <= set(AutoscalingConfig.model_fields)
            assert 1 <= found["min_replicas"] <= found["max_replicas"]
            assert "num_replicas" not in item
    assert scaled == 4


def test_user_config_releases_exactly_the_model_applications():
    config = IngressConfig.model_validate(
        application("diagnostics")["deployments"][0]["user_config"]
    )
    models = {
        item["name"] for item in CONFIG["applications"] if item["import_path"] == "app.main:model"
    }
    assert {release.application for release in config.traffic.releases} == models
    assert [release.weight for release in config.traffic.releases] == [100, 0]


def test_applications_build_with_their_arguments():
    assert diagnostics(DiagnosticsArgs(**application("diagnostics")["args"])) is not None
    for name in ("model-1", "model-2"):
        assert model(ModelArgs(**application(name)["args"])) is not None


def test_wrong_argument_is_named():
    with pytest.raises(ValidationError, match="checkpiont"):
        ModelArgs.model_validate({"checkpiont": "app/weights/1"})
    with pytest.raises(SettingsError, match=r"missing\.yaml"):
        diagnostics(DiagnosticsArgs(equipment=("missing.yaml",)))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        model(ModelArgs(checkpoint=str(Path("app") / "nothing")))


@pytest.mark.parametrize(
    "deployment", [item for entry in CONFIG["applications"] for item in entry["deployments"]]
)
def test_every_replica_reserves_less_than_a_core(deployment: dict[str, Any]):
    assert 0 < deployment["ray_actor_options"]["num_cpus"] < 1
