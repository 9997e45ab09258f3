"""Plans a run: with the versions that `serve_config.yaml` releases, or one version or checkpoint.

A plan names only checkpoints whose files agree with their manifest.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from app.checkpoint.locate import find_checkpoint
from app.checkpoint.manifest import WEIGHTS, read_manifest
from app.core.errors import InputError, SettingsError, UnknownVersion
from app.core.settings import PROJECT_DIR, Settings
from app.diagnosis.input_quality import Thresholds
from app.fleet.plan import Place, Plan, RunRequest
from app.schemas.places import shown
from app.serving.ingress.config import IngressConfig, ModelArgs
from app.serving.ingress.traffic import Release, Traffic
from app.serving.ingress.windows import CLOCK_SKEW


class Released(NamedTuple):
    """Weights, thresholds and checkpoint directories of the releases in `serve_config.yaml`."""

    traffic: Traffic
    thresholds: Thresholds
    directories: Mapping[str, str]


def make_plan(request: RunRequest, at: datetime | None, config: Path, now: datetime) -> Plan:
    """Make the plan of a run that begins now.

    Args:
        request: of the user.
        at: time that the run uses as its clock; None for now.
        config: path of `serve_config.yaml`.
        now: UTC.

    Raises:
        InputError: the time is in the future, or both a version and a checkpoint are given.
        SettingsError: the configuration can't be read.
        UnknownVersion: the given version is not released.
        CheckpointError: a checkpoint is not what its manifest says.
    """
    if at is not None and at > now + CLOCK_SKEW:
        raise InputError(
            f"expected a time up to now ({now.isoformat(timespec='seconds')}), found "
            f"{at.isoformat()}: leave --at out for now"
        )
    if request.model_version is not None and request.checkpoint is not None:
        raise InputError(
            "expected either --model-version or --checkpoint, found both: leave one out"
        )
    released = read_released(config)
    if request.checkpoint is not None:
        manifest = read_manifest(PROJECT_DIR / request.checkpoint)
        traffic = _all_to(manifest.version, request.checkpoint)
        directories: Mapping[str, str] = {manifest.version: request.checkpoint}
    elif request.model_version is not None:
        forced = released.traffic.find(request.model_version)
        if forced is None:
            versions = ", ".join(released.directories)
            raise UnknownVersion(
                f"expected a released version, found {shown(request.model_version)}: {config} has "
                f"{versions}; or name a directory with --checkpoint"
            )
        traffic, directories = _all_to(forced.version, forced.application), released.directories
    else:
        traffic, directories = released.traffic, released.directories
    answering = [release.version for release in traffic.releases if release.weight > 0]
    return Plan(
        at=at or now,
        request=request,
        traffic=traffic,
        checkpoints={version: _place(directories[version]) for version in answering},
        thresholds=released.thresholds,
    )


def read_released(config: Path) -> Released:
    """Read releases, thresholds and checkpoints out of `serve_config.yaml`.

    Raises:
        SettingsError: it can't be read, or a release has no application with a checkpoint.
    """
    try:
        data: Any = yaml.safe_load(config.read_bytes())
        applications = {item["name"]: item for item in data["applications"]}
        given = next(
            deployment["user_config"]
            for item in applications.values()
            for deployment in item.get("deployments", ())
            if "traffic" in deployment.get("user_config", {})
        )
        ingress = IngressConfig.model_validate(given)
        directories = {
            release.version: ModelArgs.model_validate(
                applications[release.application]["args"]
            ).checkpoint
            for release in ingress.traffic.releases
        }
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError(
            f"expected the service's configuration in '{config}', found: {error}"
        ) from error
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise SettingsError(
            "expected applications, one with a user_config that has `traffic`, and one for each "
            f"release in '{config}', found a file without ({type(error).__name__}: {error}): name "
            "the service's configuration with --config"
        ) from error
    return Released(traffic=ingress.traffic, thresholds=ingress.thresholds, directories=directories)


def _all_to(version: str, application: str) -> Traffic:
    return Traffic(releases=(Release(version=version, application=application, weight=100.0),))


def _place(directory: str) -> Place:
    return Place(
        directory=directory,
        weights_sha256=read_manifest(find_checkpoint(directory, Settings())).sha256[WEIGHTS],
    )
