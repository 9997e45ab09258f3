"""Finds a checkpoint of `serve_config.yaml` on this node, and has a registered one fetched that is not there yet.

The registry's client is slow to import and large, so a process of its own fetches and ends.
Invariant: a path that is returned was verified against its manifest just now.
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
        CheckpointError: it is not there and can't be fetched, or a file of it is not what its
            manifest says.
    """
    if checkpoint.startswith(REGISTERED):
        return cached(checkpoint.removeprefix(REGISTERED), settings.var_dir / MODELS, fetch)
    directory = local_directory(checkpoint, settings.var_dir)
    read_manifest(directory)
    return directory


def fetch(version: str, directory: Path) -> None:
    """Have the registry's files of a version written into a directory.

    Raises:
        CheckpointError: they can't be had.
    """
    try:
        run_apart("fetch", version, str(directory.resolve()))
    except ReleaseError as error:
        raise CheckpointError(
            f"expected version {version} from the registry, found: {error.message}"
        ) from error


def run_apart(*arguments: str) -> str:
    """Run `python -m app.release` in a process of its own, so that torch and MLflow stay out of this one.

    Returns:
        What it printed.

    Raises:
        ReleaseError: it failed, or took too long.
    """
    command = [sys.executable, "-m", "app.release", *arguments]
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
            f"expected `python -m app.release {arguments[0]}` to end within {FETCH_S:g} s, found it still at work: does the registry answer?"
        ) from error
    if done.returncode != 0:
        raise ReleaseError(done.stderr.strip().removeprefix("error: ")[-600:])
    return done.stdout
