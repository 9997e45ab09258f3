"""Finds a checkpoint of `serve_config.yaml` on this node; fetches a registered one if needed.

The registry's client is slow to import and large, so another process fetches. Invariant: a returned
path was verified against its manifest.
"""

import subprocess
import sys
from pathlib import Path

from app.checkpoint.manifest import read_manifest
from app.checkpoint.node_cache import MODELS, REGISTERED, cached, local_directory
from app.core.errors import CheckpointError, ReleaseError
from app.core.settings import PROJECT_DIR, Settings

FETCH_S = 600.0


def find_checkpoint(checkpoint: str, settings: Settings) -> Path:
    """Return a checkpoint's directory.

    Args:
        checkpoint: a directory relative to the project, or `registry:VERSION`.
        settings: where the cache is.

    Raises:
        CheckpointError: it is missing and can't be fetched, or a file differs from its manifest.
    """
    if checkpoint.startswith(REGISTERED):
        return cached(checkpoint.removeprefix(REGISTERED), settings.var_dir / MODELS, fetch)
    directory = local_directory(checkpoint, settings.var_dir)
    read_manifest(directory)
    return directory


def fetch(version: str, directory: Path) -> None:
    """Fetch the files of a registered version into a directory.

    Raises:
        CheckpointError: the registry does not have them or does not answer.
    """
    try:
        run_release_command("fetch", version, str(directory.resolve()))
    except ReleaseError as error:
        raise CheckpointError(
            f"expected version {version} from the registry, found: {error.message}"
        ) from error


def run_release_command(*arguments: str) -> str:
    """Run `hydraulic release` in another process: this one imports neither torch nor MLflow.

    Returns:
        Its standard output.

    Raises:
        ReleaseError: it failed, or took too long.
    """
    command = [sys.executable, "-m", "app.cli.main", "release", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=PROJECT_DIR,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=FETCH_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(
            f"expected `hydraulic release {arguments[0]}` to end within {FETCH_S:g} s, found "
            "it still running: does the registry answer?"
        ) from error
    if done.returncode != 0:
        raise ReleaseError(done.stderr.strip().removeprefix("error: ")[-600:])
    return done.stdout
