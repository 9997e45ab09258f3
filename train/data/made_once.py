"""Make a directory of windows once: whole or not at all, and locked while it is used.

Shared storage has no locks: two processes that make the same windows there write the same files,
the head last. Invariant: a directory whose name is a digest of all that its windows depend on is
never changed.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from upath import UPath

from app.core.shared_storage import StoragePath
from train.data.artifact_locks import in_use
from train.data.windows import BEGUN, HEAD, Windows, open_windows


def made_once(
    stack: ExitStack, directory: StoragePath, make: Callable[[StoragePath], object]
) -> Windows:
    """Open the windows of a directory, after making them if they are missing.

    Args:
        stack: until it is closed, a directory on this machine is locked against `train.jobs.prune`.
        directory: with a name that says what is in it.
        make: writes the windows to a new directory and finishes them.
    """
    if isinstance(directory, UPath):
        if not (directory / HEAD).exists():
            make(directory)
        return open_windows(directory)
    # windows that are pruned between preparation and use are prepared again
    while not stack.enter_context(in_use(directory / HEAD)):
        _make(directory, make)
    return open_windows(directory)


def _make(directory: Path, make: Callable[[StoragePath], object]) -> None:
    """Write to a temporary directory and rename it, unless another process was faster."""
    partial = directory.with_name(f"{directory.name}.{uuid4().hex[:8]}.partial")
    partial.mkdir(parents=True)
    try:
        (partial / BEGUN).touch()
        with in_use(partial / BEGUN):
            make(partial)
            try:
                partial.rename(directory)
            except OSError:
                if not (directory / HEAD).exists():
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
