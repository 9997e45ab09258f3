"""Remove artifacts of training that were unused for days: `hydraulic train prune`.

Artifacts, under `var/training`, are prepared windows, fits of trainings that were not finished or
have `keep_fits`, records of searches, and the remains of an interrupted removal. The time of the
last use is the time of the last change: windows are marked when a command opens them and when it
ends, fits change with every epoch, and windows count as used when their fits change.
Invariant: artifacts in use stay, whatever their age (see `train.data.artifact_locks`), and so do
entries whose names training does not give.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.filesize import decimal

from app.core.errors import InputError
from app.core.settings import Settings
from train.jobs.artifacts import Artifact, Kind, remove, survey

MOST_DAYS = 36_500
MOMENT = timedelta(seconds=10)
"""Age up to which unfinished windows stay: they exist a moment before their lock, and clocks
differ."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an artifact is removed, and why."""

    artifact: Artifact
    is_removed: bool
    why: str


def judge(found: Sequence[Artifact], now: datetime, unused: timedelta) -> list[Verdict]:
    """Decide which artifacts to remove; pure.

    Args:
        found: all artifacts.
        now: the time.
        unused: time without use after which an artifact is removed.

    Returns:
        A verdict on each, in the given order.
    """
    return [_verdict(each, _fits_of(each, found), now, unused) for each in found]


def _fits_of(each: Artifact, found: Sequence[Artifact]) -> list[Artifact]:
    """Return the fits of windows; running fits of earlier versions may be of any windows."""
    if each.kind is not Kind.WINDOWS:
        return []
    return [
        fits
        for fits in found
        if fits.kind is Kind.FITS
        and (each.name in fits.windows.split() or (fits.busy and not fits.windows))
    ]


def _verdict(each: Artifact, fits: Sequence[Artifact], now: datetime, unused: timedelta) -> Verdict:
    last = max((each, *fits), key=lambda one: one.changed)
    if each.kind is Kind.UNKNOWN:
        return Verdict(each, is_removed=False, why=f"last changed {each.changed:%Y-%m-%d %H:%M}Z")
    if each.kind is Kind.CUT_OFF:
        return Verdict(each, is_removed=True, why="its removal was interrupted")
    for one in (each, *fits):
        if one.busy:
            by = "" if one is each else f" by {one.name}"
            return Verdict(each, is_removed=False, why=f"{one.busy}{by}")
    age, by = now - last.changed, "" if last is each else f" by {last.name}"
    if each.kind is Kind.UNFINISHED and age < MOMENT:
        return Verdict(each, is_removed=False, why="just begun")
    why = f"last used {last.changed:%Y-%m-%d %H:%M}Z{by}"
    return Verdict(each, is_removed=age >= unused, why=why)


def prune(days: str, *, is_dry: bool) -> int:
    """Remove unused artifacts and return the exit status.

    Args:
        days: without use after which an artifact is removed.
        is_dry: only list them.
    """
    unused = _days(days)
    training = Settings().var_dir / "training"
    if not training.exists():
        print(f"{training} does not exist")
        return 0
    return _prune(training, judge(survey(training), datetime.now(UTC), unused), is_dry=is_dry)


def _prune(training: Path, verdicts: Sequence[Verdict], *, is_dry: bool) -> int:
    """Carry out the verdicts, print each, and return the exit status."""
    width = max((len(verdict.artifact.name) for verdict in verdicts), default=0)
    removed, status = [], 0
    for verdict in verdicts:
        artifact, is_removed, why = verdict.artifact, verdict.is_removed, verdict.why
        if is_removed and not is_dry:
            try:
                kept = remove(training, artifact)
            except OSError as error:
                print(
                    f"error: expected to be able to remove '{training / artifact.name}', found "
                    f"{error.strerror} at '{error.filename}': run this as the owner of the files",
                    file=sys.stderr,
                )
                kept, status = "could not be removed", 1
            is_removed, why = not kept, kept or why
        if is_removed:
            removed.append(artifact)
            word = "would go" if is_dry else "removed"
        else:
            word = "ignored" if artifact.kind is Kind.UNKNOWN else "kept"
        size = decimal(artifact.size)
        print(
            f"{word:<8}  {artifact.kind:<18}  {artifact.name:<{width}}  {size:>9}  {why}",
            flush=True,
        )
    known = [verdict.artifact for verdict in verdicts if verdict.artifact.kind is not Kind.UNKNOWN]
    sizes = [decimal(sum(artifact.size for artifact in some)) for some in (removed, known)]
    print(
        f"{'would remove' if is_dry else 'removed'} {len(removed)} of {len(known)} in {training}, "
        f"{sizes[0]} of {sizes[1]}; {len(verdicts) - len(known)} unknown"
    )
    return status


def _days(given: str) -> timedelta:
    if not re.fullmatch("[0-9]{1,5}", given) or int(given) > MOST_DAYS:
        raise InputError(
            f"expected --days as a whole number from 0 to {MOST_DAYS}, found '{given}': give the "
            "days without use after which artifacts are removed, 0 for all that are not in use",
            "days",
        )
    return timedelta(days=int(given))
