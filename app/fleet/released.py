"""Which versions a run scores with: what `serve_config.yaml` releases now, or one version or checkpoint for every machine.

Invariant: a plan names no checkpoint whose files are not those that its manifest states.
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
    """What `serve_config.yaml` says of releases: weights, thresholds, and each version's checkpoint directory."""

    traffic: Traffic
    thresholds: Thresholds
    directories: Mapping[str, str]


def make_plan(asked: RunRequest, at: datetime | None, config: Path, now: datetime) -> Plan:
    """Make the plan of a run that begins now.

    Args:
        asked: by the user.
        at: the time that the run takes for now; None for now.
        config: path of `serve_config.yaml`.
        now: UTC.

    Raises:
        InputError: the time lies in the future, or both a version and a checkpoint are asked for.
        SettingsError: the configuration can't be read.
        UnknownVersion: the version asked for is not released.
        CheckpointError: a checkpoint is not what its manifest says.
    """
    if at is not None and at > now + CLOCK_SKEW:
        raise InputError(
            f"expected a time up to now ({now.isoformat(timespec='seconds')}), found {at.isoformat()}: leave --at out for now"
        )
    if asked.model_version is not None and asked.checkpoint is not None:
        raise InputError(
            "expected either --model-version or --checkpoint, found both: leave one out"
        )
    released = read_released(config)
    if asked.checkpoint is not None:
        manifest = read_manifest(PROJECT_DIR / asked.checkpoint)
        traffic = _all_to(manifest.version, asked.checkpoint)
        directories: Mapping[str, str] = {manifest.version: asked.checkpoint}
    elif asked.model_version is not None:
        forced = released.traffic.find(asked.model_version)
        if forced is None:
            there = ", ".join(released.directories)
            raise UnknownVersion(
                f"expected a released version, found {shown(asked.model_version)}: {config} has {there}; or name a directory "
                "with --checkpoint"
            )
        traffic, directories = _all_to(forced.version, forced.application), released.directories
    else:
        traffic, directories = released.traffic, released.directories
    answering = [release.version for release in traffic.releases if release.weight > 0]
    return Plan(
        at=at or now,
        asked=asked,
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
            f"expected applications, one with a user_config that has `traffic`, and one for each release in '{config}', found "
            f"a file without ({type(error).__name__}: {error}): name the service's configuration with --config"
        ) from error
    return Released(traffic=ingress.traffic, thresholds=ingress.thresholds, directories=directories)


def _all_to(version: str, application: str) -> Traffic:
    return Traffic(releases=(Release(version=version, application=application, weight=100.0),))


def _place(directory: str) -> Place:
    return Place(
        directory=directory,
        weights_sha256=read_manifest(find_checkpoint(directory, Settings())).sha256[WEIGHTS],
    )
