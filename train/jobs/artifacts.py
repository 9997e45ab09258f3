"""List the artifacts of training under `var/training`, and remove single ones.

`train.jobs.prune` decides which. Names and locks are those of `train.data.prepare`,
`train.jobs.job` and `train.jobs.tune`. Invariant: only names that training gives are removed, no
symbolic link below `var/training` is followed, and an artifact is renamed before its first file is
deleted, so that no process reads a part of it.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

from app.core.errors import InputError
from app.core.file_locks import attempt
from train.data.artifact_locks import SEARCH_LOCK, WINDOWS_NAME, exclusive, job_lock
from train.data.windows import BEGUN, HEAD

IN_USE = "in use"


class Kind(StrEnum):
    """Kinds of entries under `var/training`."""

    WINDOWS = "windows"
    UNFINISHED = "unfinished windows"
    FITS = "fits"
    SEARCH = "search"
    CUT_OFF = "half removed"
    UNKNOWN = "unknown"


_DIGEST = "[0-9a-f]{16}"
_NAMES: Mapping[str, Mapping[Kind, str]] = {
    "": {Kind.WINDOWS: _DIGEST, Kind.UNFINISHED: rf"{_DIGEST}\.[0-9a-f]{{8}}\.partial"},
    "jobs": {Kind.FITS: _DIGEST},
    "tune": {Kind.SEARCH: r"_try_\d{4}(-\d\d){2}_\d\d(-\d\d){2}"},
}
"""Patterns of the directories that training makes, by parent directory and kind."""
_LOCKS: Mapping[str, str] = {"jobs": rf"{_DIGEST}\.lock", "tune": re.escape(SEARCH_LOCK)}
"""Patterns of lock files, which are empty and never removed, see `app.core.file_locks`."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """An entry under `var/training`.

    Args:
        name: path relative to `var/training`.
        kind: its kind.
        size: of all its files, in bytes.
        changed: time of the last change inside it.
        busy: why it can't be removed now; empty if it can.
        windows: names of the windows of fits, one for each design; empty if unknown.
    """

    name: str
    kind: Kind
    size: int
    changed: datetime
    busy: str = ""
    windows: str = ""


def survey(training: Path) -> list[Artifact]:
    """List all artifacts without changing any.

    Args:
        training: `var/training`.

    Raises:
        InputError: it is not a readable directory.
    """
    try:
        return [each for parent in _NAMES for each in _survey(training, parent)]
    except OSError as error:
        raise InputError(
            f"expected a readable directory of trainings in '{training}', found {error.strerror} "
            f"at '{error.filename}': set HYDRAULIC_VAR_DIR to where training writes its files, or "
            "run this as their owner",
            "HYDRAULIC_VAR_DIR",
        ) from error


def remove(training: Path, artifact: Artifact) -> str:
    """Remove an artifact unless it is in use, or was used since the survey.

    Args:
        training: `var/training`.
        artifact: as `survey` returned it.

    Returns:
        Why it was kept; empty if it was removed.

    Raises:
        OSError: it could not be removed.
    """
    path = training / artifact.name
    aside = path
    if artifact.kind is not Kind.CUT_OFF:
        aside = path.with_name(f"{path.name}.{uuid4().hex[:8]}.pruned")
        with _unused(artifact.kind, path) as is_locked:
            if not is_locked:
                return IN_USE if path.exists() else ""
            with suppress(FileNotFoundError):  # another process removes it too
                if _measure(path)[1] > artifact.changed:
                    return "used meanwhile"
                path.rename(aside)
    # after closing the lock: a network file system keeps open files
    while aside.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(aside)
    return ""


def _survey(training: Path, parent: str) -> Iterator[Artifact]:
    directory = training / parent
    if parent and (directory.is_symlink() or not directory.is_dir()):
        return
    for path in sorted(directory.iterdir()):
        if not _is_part_of_the_layout(path, parent):
            found = _look(path, str(Path(parent) / path.name), _kind_of(path, _NAMES[parent]))
            if found is not None:
                yield found


def _is_part_of_the_layout(path: Path, parent: str) -> bool:
    """Return whether a path is a parent directory of artifacts, or a lock."""
    if path.is_symlink():
        return False
    if path.is_dir():
        return not parent and path.name in _NAMES
    return re.fullmatch(_LOCKS.get(parent, ""), path.name) is not None


def _kind_of(path: Path, names: Mapping[Kind, str]) -> Kind:
    if path.is_symlink() or not path.is_dir():
        return Kind.UNKNOWN
    if re.fullmatch(rf"({'|'.join(names.values())})\.[0-9a-f]{{8}}\.pruned", path.name):
        return Kind.CUT_OFF
    kind = next(
        (kind for kind, name in names.items() if re.fullmatch(name, path.name)), Kind.UNKNOWN
    )
    # 16 digits may be another program's name, and a link in place of a lock would be followed
    is_known = (path / HEAD).is_file() if kind is Kind.WINDOWS else True
    lock = _lock_of(kind, path)
    return kind if is_known and not (lock is not None and lock.is_symlink()) else Kind.UNKNOWN


def _look(path: Path, name: str, kind: Kind) -> Artifact | None:
    """Return an artifact with its size, last change and use; None if it was removed meanwhile."""
    try:
        size, changed = _measure(path)
    except FileNotFoundError:
        return None
    windows = ""
    if kind is Kind.FITS:
        with suppress(FileNotFoundError):  # earlier versions did not write it
            windows = (path / WINDOWS_NAME).read_text(encoding="utf-8", errors="replace").strip()
    lock, busy = _lock_of(kind, path), ""
    if lock is not None and lock.exists():
        try:
            with exclusive(lock) as is_locked:
                busy = "" if is_locked or not path.exists() else IN_USE
        except PermissionError as error:
            busy = f"its lock can't be read ({error.strerror})"
    return Artifact(name, kind, size, changed, busy, windows)


def _measure(path: Path) -> tuple[int, datetime]:
    """Return size and last change of a file, a link or a directory tree."""
    about = path.lstat()
    size, changed = 0 if path.is_dir() else about.st_size, about.st_mtime
    pending = [] if path.is_symlink() or not path.is_dir() else [path]
    while pending:
        directory = pending.pop()
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # written and renamed meanwhile
                    about = entry.stat(follow_symlinks=False)
                    changed = max(changed, about.st_mtime)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    else:
                        size += about.st_size
    return size, datetime.fromtimestamp(changed, UTC)


def _lock_of(kind: Kind, path: Path) -> Path | None:
    """Return the file that users of an artifact lock; None if its kind has none."""
    if kind is Kind.FITS:
        return job_lock(path)
    if kind is Kind.SEARCH:
        return path.with_name(SEARCH_LOCK)
    of_windows = {Kind.WINDOWS: (HEAD,), Kind.UNFINISHED: (BEGUN, HEAD)}.get(kind, ())
    return next((path / name for name in of_windows if (path / name).is_file()), None)


def _unused(kind: Kind, path: Path) -> AbstractContextManager[bool]:
    """Lock an artifact against all use, unless it is in use."""
    lock = _lock_of(kind, path)
    if lock is None:
        return nullcontext(enter_result=True)
    # a missing lock beside the artifact is created, so that processes that start meanwhile see it
    return exclusive(lock) if lock.parent == path else attempt(lock)
