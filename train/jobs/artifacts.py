"""What training left under `var/training`: looks at it without changing it, and removes what it is told to.

Does not decide what goes (see `train.jobs.prune`). Names and locks are those that `train.data.prepare`, `train.jobs.job` and `train.jobs.tune` give.
Invariant: nothing but what has a name that training gives is touched, no symbolic link below `var/training` is followed, and what goes is
renamed before the first file of it is deleted, so that nobody takes a part for the whole.
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
from train.data.artifact_locks import SEARCHES, USES, alone, lock_of
from train.data.windows import BEGUN, HEAD

IN_USE = "in use"


class Kind(StrEnum):
    """What something under `var/training` is."""

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
"""Names of directories that training makes, by the directory that they are in."""
_LOCKS: Mapping[str, str] = {"jobs": rf"{_DIGEST}\.lock", "tune": re.escape(SEARCHES)}
"""Names of files that are empty and never removed, see `app.core.file_locks`."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something under `var/training`.

    Args:
        name: its path there.
        kind: what it is.
        size: of all its files, in bytes.
        changed: when anything in it was changed last.
        busy: why nobody may remove it now; empty when nothing speaks against it.
        uses: name of the windows that fits came of; empty when that is not known.
    """

    name: str
    kind: Kind
    size: int
    changed: datetime
    busy: str = ""
    uses: str = ""


def survey(training: Path) -> list[Artifact]:
    """Look at all that there is; nothing is changed.

    Args:
        training: `var/training`.

    Raises:
        InputError: it is no directory that can be read.
    """
    try:
        return [each for parent in _NAMES for each in _survey(training, parent)]
    except OSError as error:
        raise InputError(
            f"expected a directory of trainings in '{training}' that can be read, found {error.strerror} at '{error.filename}': "
            "set HYDRAULIC_VAR_DIR to where training keeps its files, or run this as their owner",
            "HYDRAULIC_VAR_DIR",
        ) from error


def remove(training: Path, leftover: Artifact) -> str:
    """Remove a leftover unless it is used, or was since it was looked at.

    Args:
        training: `var/training`.
        leftover: what `survey` said of it.

    Returns:
        Why it stays; empty when it is gone.

    Raises:
        OSError: it could not be removed.
    """
    path = training / leftover.name
    aside = path
    if leftover.kind is not Kind.CUT_OFF:
        aside = path.with_name(f"{path.name}.{uuid4().hex[:8]}.pruned")
        with _unused(leftover.kind, path) as is_ours:
            if not is_ours:
                return IN_USE if path.exists() else ""
            with suppress(FileNotFoundError):  # another process removes it too
                if _measure(path)[1] > leftover.changed:
                    return "used meanwhile"
                path.rename(aside)
    # only now that no lock is open: a network's file system keeps a file that is
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
    """Tell whether a path is a directory whose contents are leftovers of their own, or a lock."""
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
    # a name of 16 digits may be anybody's, and a link in the place of a lock would be followed
    is_ours = (path / HEAD).is_file() if kind is Kind.WINDOWS else True
    lock = _lock_of(kind, path)
    return kind if is_ours and not (lock is not None and lock.is_symlink()) else Kind.UNKNOWN


def _look(path: Path, name: str, kind: Kind) -> Artifact | None:
    """Return what there is to say of a leftover; None when it is gone."""
    try:
        size, changed = _measure(path)
    except FileNotFoundError:
        return None
    uses = ""
    if kind is Kind.FITS:
        with suppress(FileNotFoundError):  # of a version that did not say
            uses = (path / USES).read_text(encoding="utf-8", errors="replace").strip()
    lock, busy = _lock_of(kind, path), ""
    if lock is not None and lock.exists():
        try:
            with alone(lock) as is_ours:
                busy = "" if is_ours or not path.exists() else IN_USE
        except PermissionError as error:
            busy = f"can't be asked whether it is in use ({error.strerror})"
    return Artifact(name, kind, size, changed, busy, uses)


def _measure(path: Path) -> tuple[int, datetime]:
    """Return size and last change of a file, a link or a directory with all that is in it."""
    about = path.lstat()
    size, changed = 0 if path.is_dir() else about.st_size, about.st_mtime
    pending = [] if path.is_symlink() or not path.is_dir() else [path]
    while pending:
        directory = pending.pop()
        with suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # what is written and renamed at this moment
                    about = entry.stat(follow_symlinks=False)
                    changed = max(changed, about.st_mtime)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    else:
                        size += about.st_size
    return size, datetime.fromtimestamp(changed, UTC)


def _lock_of(kind: Kind, path: Path) -> Path | None:
    """Return the file that whoever uses something holds; None when nobody can."""
    if kind is Kind.FITS:
        return lock_of(path)
    if kind is Kind.SEARCH:
        return path.with_name(SEARCHES)
    of_windows = {Kind.WINDOWS: (HEAD,), Kind.UNFINISHED: (BEGUN, HEAD)}.get(kind, ())
    return next((path / name for name in of_windows if (path / name).is_file()), None)


def _unused(kind: Kind, path: Path) -> AbstractContextManager[bool]:
    """Hold something against all use, if there is none."""
    lock = _lock_of(kind, path)
    if lock is None:
        return nullcontext(enter_result=True)
    # a lock beside is made where there is none, so that who comes meanwhile sees it held
    return alone(lock) if lock.parent == path else attempt(lock)
