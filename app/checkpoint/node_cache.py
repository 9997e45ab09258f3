"""Caches registered versions on a node: each is fetched once and verified, for all replicas.

The caller passes the function that fetches; a file lock keeps two replicas from fetching at once.
Invariant: a directory under its final name has files with the SHA-256 of its manifest, or is
refused.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from app.checkpoint.manifest import read_manifest
from app.core.errors import CheckpointError
from app.core.settings import PROJECT_DIR

MODELS = "models"
"""The cache's directory under `var/`."""
REGISTERED = "registry:"
"""How `serve_config.yaml` names a registered version's checkpoint: `registry:3`."""

Fetch = Callable[[str, Path], None]
"""Writes a version's files into an empty directory."""


def local_directory(checkpoint: str, var_dir: Path) -> Path:
    """Return the path on this node of a checkpoint of `serve_config.yaml`, fetched or not.

    Args:
        checkpoint: a directory relative to the project, or `registry:VERSION`.
        var_dir: of the settings.
    """
    if checkpoint.startswith(REGISTERED):
        return var_dir / MODELS / checkpoint.removeprefix(REGISTERED)
    return PROJECT_DIR / checkpoint


def cached(version: str, directory: Path, fetch: Fetch) -> Path:
    """Return a version's directory, fetched if it is missing.

    Args:
        version: as registered.
        directory: of the cache, `var/models`.
        fetch: called at most once on a node, while others wait.

    Returns:
        A directory whose files match its manifest.

    Raises:
        CheckpointError: a file is missing, cut or changed, or the manifest is another version's;
            also in the cache, so that its damage is noticed before the version is fetched again.
    """
    final = directory / version
    if not final.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f".{version}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.is_dir():
                _fetch(version, final, fetch)
    _verify(version, final)
    return final


def _fetch(version: str, final: Path, fetch: Fetch) -> None:
    for left in final.parent.glob(f".{version}.*.part"):
        shutil.rmtree(left)  # of a process that was killed
    part = Path(tempfile.mkdtemp(prefix=f".{version}.", suffix=".part", dir=final.parent))
    try:
        fetch(version, part)
        _verify(version, part)
        part.chmod(0o755)
        part.rename(final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _verify(version: str, directory: Path) -> None:
    manifest = read_manifest(directory)
    if manifest.version != version:
        raise CheckpointError(
            f"expected version {version} in '{directory}', found version {manifest.version}: "
            "remove the directory to fetch it again"
        )
