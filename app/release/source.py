"""Finds and verifies the checkpoint of a version to deploy, and names registered versions.

Invariant: a checkpoint that this module returns for deployment was loaded as a replica loads it.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.checkpoint.locate import find_checkpoint, run_release_command
from app.checkpoint.node_cache import MODELS, REGISTERED, cached, local_directory
from app.core.errors import CheckpointError, HydraulicDiagnosticsError, ReleaseError
from app.core.settings import PROJECT_DIR, Settings
from app.release.config.edits import Placement
from app.release.config.schema import ServeConfig

if TYPE_CHECKING:
    from app.release.registry import Registry

SHIPPED = "app/weights"


def find_placement(
    version: str, checkpoint: str | None, device: str | None, settings: Settings
) -> Placement:
    """Find a version's checkpoint and verify it.

    Args:
        version: As in its manifest.
        checkpoint: Its directory, relative to the project; None searches the shipped and the
            registered versions.
        device: Device of its replicas; None for that of the copied version.
        settings: Name the directory of the cache.

    Raises:
        CheckpointError: It does not exist, does not match its manifest, or is another version's.
        HydraulicDiagnosticsError: It is not registered, or the registry does not answer.
    """
    # loading a checkpoint imports the model, which other commands do not need
    from app.release.validation import validate

    if checkpoint is None and not (PROJECT_DIR / SHIPPED / version).is_dir():
        models = settings.var_dir / MODELS
        if not has_registry(settings) and not (models / version).is_dir():
            raise CheckpointError(
                f"expected version {version} among the shipped or registered versions, found "
                "neither it nor a registry: register it with `hydraulic release register "
                "DIRECTORY` or POST /v1/models"
            )
        directory = cached(
            version, models, lambda name, to: open_registry(settings).fetch(name, to)
        )
        manifest = validate(directory, version).manifest
        return Placement(version, f"{REGISTERED}{version}", device, manifest.designs)
    given = checkpoint or f"{SHIPPED}/{version}"
    manifest = validate(local_directory(given, settings.var_dir), version).manifest
    return Placement(version, given, device, manifest.designs)


def find_placement_in_subprocess(version: str, device: str | None) -> Placement:
    """Do the same as `find_placement` in a subprocess, which loads the model and MLflow.

    Raises:
        ReleaseError: The version does not exist, or does not match its manifest.
    """
    try:
        output = run_release_command("check", version)
    except ReleaseError as error:
        raise ReleaseError(f"version {version} was refused: {error.message}") from error
    checkpoint, designs = json.loads(output.splitlines()[-1])
    return Placement(version, checkpoint, device, designs)


def find_directory(version: str, config: ServeConfig, settings: Settings) -> Path:
    """Find a version's checkpoint on this machine: as released, else shipped, else registered.

    Raises:
        CheckpointError: It is in none of these places, cannot be fetched, or does not match its
            manifest.
    """
    release = config.traffic.find(version)
    if release is not None:
        return find_checkpoint(config.model_args(release.application).checkpoint, settings)
    if (PROJECT_DIR / SHIPPED / version).is_dir():
        return find_checkpoint(f"{SHIPPED}/{version}", settings)
    if has_registry(settings) or (settings.var_dir / MODELS / version).is_dir():
        return find_checkpoint(f"{REGISTERED}{version}", settings)
    raise CheckpointError(
        f"expected version {version} among the released, shipped or registered versions, found it "
        "nowhere on this machine: give its directory with --checkpoint"
    )


def has_registry(settings: Settings) -> bool:
    """Return whether a registry is configured or exists, without opening or creating one."""
    return (
        bool(os.environ.get("MLFLOW_TRACKING_URI"))
        or (settings.var_dir / "mlflow" / "mlflow.db").is_file()
    )


def new_aliases(
    before: Mapping[str, float], after: Mapping[str, float], deployed: str | None
) -> dict[str, str]:
    """Return the aliases that a change of weights or a deployment moves, and their versions.

    `champion` has the largest weight, `challenger` was deployed last.
    """
    aliases = {}
    champion = max(after, key=lambda version: after[version])
    if champion != max(before, key=lambda version: before[version]):
        aliases["champion"] = champion
    if deployed is not None:
        aliases["challenger"] = deployed
    return aliases


def set_aliases(
    aliases: Mapping[str, str], settings: Settings, report: Callable[[str], None]
) -> None:
    """Set aliases in the registry; failure is reported only, since traffic does not need them."""
    if not aliases or not has_registry(settings):
        return
    try:
        registry = open_registry(settings)
        for alias, version in aliases.items():
            registry.set_alias(alias, version)
    except HydraulicDiagnosticsError as error:
        report(f"warning: done, but the aliases were not set in the registry: {error.message}")


def set_aliases_in_subprocess(
    aliases: Mapping[str, str], settings: Settings, report: Callable[[str], None]
) -> None:
    """Do the same as `set_aliases` in a subprocess, which loads MLflow."""
    if not aliases or not has_registry(settings):
        return
    try:
        output = run_release_command(
            "alias", *(f"{alias}={version}" for alias, version in aliases.items())
        )
    except ReleaseError as error:
        output = error.message
    if output:
        report(output.strip()[-600:])


def open_registry(settings: Settings) -> "Registry":
    """Open the registry, which imports MLflow and takes seconds.

    Raises:
        ReleaseError: MLflow is not installed.
    """
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    ):
        os.environ.setdefault(name, value)
    try:
        from app.release.registry import Registry
    except ModuleNotFoundError as error:
        raise ReleaseError(
            f"expected MLflow for the registry, found no module '{error.name}': install the "
            "project with the extra `release`"
        ) from error
    for noisy in ("mlflow", "alembic"):  # the import sets their levels
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Registry(settings)
