"""Where a version to be deployed comes from, and whether it may be.

Invariant: a checkpoint that leaves this module was loaded here as a replica would load it.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.checkpoint.locate import find_checkpoint, run_apart
from app.checkpoint.node_cache import MODELS, REGISTERED, cached, local_directory
from app.core.errors import CheckpointError, HydraulicDiagnosticsError, ReleaseError
from app.core.settings import PROJECT_DIR, Settings
from app.release.config.edits import Placement
from app.release.config.schema import ServeConfig

if TYPE_CHECKING:
    from app.release.registry import Registry

SHIPPED = "app/weights"


def placement_of(
    version: str, checkpoint: str | None, device: str | None, settings: Settings
) -> Placement:
    """Find a version's checkpoint and check it.

    Args:
        version: as its manifest has it.
        checkpoint: its directory, relative to the project; None looks among the shipped and the registered ones.
        device: for its replicas; None for that of the version that is copied.
        settings: where the cache is.

    Raises:
        CheckpointError: it is not there, is not what its manifest says, or holds another version.
        HydraulicDiagnosticsError: it is not registered, or the registry does not answer.
    """
    # torch takes seconds to import, and the other commands do not need it
    from app.release.validation import validate

    if checkpoint is None and not (PROJECT_DIR / SHIPPED / version).is_dir():
        if not has_registry(settings):
            raise CheckpointError(
                f"expected version {version} among the shipped or the registered ones, found neither it nor a registry: register it with "
                "`python -m app.release register DIRECTORY`, or name its directory with --checkpoint"
            )
        validate(cached(version, settings.var_dir / MODELS, open_registry(settings).fetch), version)
        return Placement(version, f"{REGISTERED}{version}", device)
    given = checkpoint or f"{SHIPPED}/{version}"
    validate(local_directory(given, settings.var_dir), version)
    return Placement(version, given, device)


def check(version: str, device: str | None) -> Placement:
    """Find and check a shipped or registered version as `placement_of` does, in a process of its own: torch and MLflow stay out of this one.

    Raises:
        ReleaseError: it is not there, or is not what its manifest says.
    """
    try:
        told = run_apart("check", version)
    except ReleaseError as error:
        raise ReleaseError(f"version {version} was refused: {error.message}") from error
    return Placement(version, told.splitlines()[-1], device)


def directory_of(version: str, config: ServeConfig, settings: Settings) -> Path:
    """Find a version's checkpoint on this machine: as the file releases it, else shipped, else registered.

    Raises:
        CheckpointError: it is in none of these places, can't be fetched, or is not what its manifest says.
    """
    release = config.traffic.find(version)
    if release is not None:
        return find_checkpoint(config.model_args(release.application).checkpoint, settings)
    if (PROJECT_DIR / SHIPPED / version).is_dir():
        return find_checkpoint(f"{SHIPPED}/{version}", settings)
    if has_registry(settings) or (settings.var_dir / MODELS / version).is_dir():
        return find_checkpoint(f"{REGISTERED}{version}", settings)
    raise CheckpointError(
        f"expected version {version} among the released, the shipped or the registered ones, found it nowhere on this machine: "
        "name its directory with --checkpoint"
    )


def has_registry(settings: Settings) -> bool:
    """Tell whether there may be a registry, without importing or making one."""
    return (
        bool(os.environ.get("MLFLOW_TRACKING_URI"))
        or (settings.var_dir / "mlflow" / "mlflow.db").is_file()
    )


def aliases(
    before: Mapping[str, float], after: Mapping[str, float], deployed: str | None
) -> dict[str, str]:
    """Return which registered version is champion, and which challenger, where a change of weights or a deployment made another one so.

    Args:
        before: weights by version.
        after: the same.
        deployed: the version that was just deployed, or None.
    """
    named = {}
    champion = max(after, key=lambda version: after[version])
    if champion != max(before, key=lambda version: before[version]):
        named["champion"] = champion
    if deployed is not None:
        named["challenger"] = deployed
    return named


def name_versions(names: Mapping[str, str], settings: Settings, say: Callable[[str], None]) -> None:
    """Tell the registry its aliases' versions; what runs does not depend on it, so a registry that refuses is told and fails nothing."""
    if not names or not has_registry(settings):
        return
    try:
        registry = open_registry(settings)
        for alias, version in names.items():
            registry.name(alias, version)
    except HydraulicDiagnosticsError as error:
        say(f"warning: done, but the registry was not told: {error.message}")


def name_apart(names: Mapping[str, str], settings: Settings, say: Callable[[str], None]) -> None:
    """Do what `name_versions` does in a process of its own, which nobody waits for: MLflow stays out of this one."""
    if not names or not has_registry(settings):
        return
    try:
        told = run_apart("alias", *(f"{alias}={version}" for alias, version in names.items()))
    except ReleaseError as error:
        told = error.message
    if told:
        say(told.strip()[-600:])


def open_registry(settings: Settings) -> "Registry":
    """Open the registry, which takes the seconds that MLflow takes to import.

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
            f"expected MLflow for the registry, found no module '{error.name}': install the project with the extra `train`, or name a "
            "directory with --checkpoint"
        ) from error
    for noisy in ("mlflow", "alembic"):  # after the import, which sets them itself
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Registry(settings)
