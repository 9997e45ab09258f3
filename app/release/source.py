"""Where a version to be deployed comes from, and whether it may be.

Invariant: a checkpoint that leaves this module was loaded here as a replica would load it.
"""

import logging
import os
from typing import TYPE_CHECKING

from app.checkpoint_cache import MODELS, REGISTERED, cached, local_directory
from app.errors import CheckpointError, ReleaseError
from app.release.edits import Placement
from app.settings import PROJECT_DIR, Settings

if TYPE_CHECKING:
    from app.release.registry import Registry

SHIPPED = "app/checkpoints"


def placement_of(version: str, checkpoint: str | None, device: str | None, settings: Settings) -> Placement:
    """Find a version's checkpoint and check it.

    Args:
        version: as its card has it.
        checkpoint: its directory, relative to the project; None looks among the shipped and the registered ones.
        device: for its replicas; None for that of the version that is copied.
        settings: where the cache is.

    Raises:
        CheckpointError: it is not there, is not what its card says, or holds another version.
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


def has_registry(settings: Settings) -> bool:
    """Tell whether there may be a registry, without importing or making one."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (settings.var_dir / "mlflow" / "mlflow.db").is_file()


def open_registry(settings: Settings) -> "Registry":
    """Open the registry, which takes the seconds that MLflow takes to import.

    Raises:
        ReleaseError: MLflow is not installed.
    """
    for name, value in (("MLFLOW_DISABLE_TELEMETRY", "true"), ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")):
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
