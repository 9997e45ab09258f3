"""Removes what training left under `var/training` and nobody used for some days: `python -m train prune`.

That is prepared windows, the fits of trainings that were not finished or were to be kept, records of searches, and what a kill cut off.
Last used is last changed: windows are marked when a command opens them and when it ends, fits are written after every epoch, and windows
count as used when the fits that came of them are.
Invariant: what a process uses at this moment stays, whatever its age (see `train.data.artifact_locks`), and so does what training gives no name.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.filesize import decimal

from app.core.errors import HydraulicDiagnosticsError, InputError
from app.core.settings import Settings
from train.jobs.artifacts import Artifact, Kind, remove, survey

MOST_DAYS = 36_500
MOMENT = timedelta(seconds=10)
"""For so long a preparation's directory stays in any case: it is made a moment before it is locked, and clocks of nodes differ a little."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a leftover, and why."""

    leftover: Artifact
    goes: bool
    why: str


def judge(found: Sequence[Artifact], now: datetime, unused: timedelta) -> list[Verdict]:
    """Tell what goes and what stays; pure.

    Args:
        found: all that there is.
        now: the time.
        unused: what was not used for so long goes.

    Returns:
        A verdict on each, in the order given.
    """
    return [_verdict(each, _fits_of(each, found), now, unused) for each in found]


def _fits_of(each: Artifact, found: Sequence[Artifact]) -> list[Artifact]:
    """Return the fits that came of windows; those at work that do not say of which, as earlier versions' do not, may have come of any."""
    if each.kind is not Kind.WINDOWS:
        return []
    return [
        fits
        for fits in found
        if fits.kind is Kind.FITS and (fits.uses == each.name or (fits.busy and not fits.uses))
    ]


def _verdict(each: Artifact, fits: Sequence[Artifact], now: datetime, unused: timedelta) -> Verdict:
    last = max((each, *fits), key=lambda one: one.changed)
    if each.kind is Kind.UNKNOWN:
        return Verdict(each, goes=False, why=f"last changed {each.changed:%Y-%m-%d %H:%M}Z")
    if each.kind is Kind.CUT_OFF:
        return Verdict(each, goes=True, why="its removal was cut off")
    busy = next(
        (
            f"{one.busy}{'' if one is each else f' by {one.name}'}"
            for one in (each, *fits)
            if one.busy
        ),
        "",
    )
    if busy:
        return Verdict(each, goes=False, why=busy)
    age, by = now - last.changed, "" if last is each else f" by {last.name}"
    if each.kind is Kind.UNFINISHED and age < MOMENT:
        return Verdict(each, goes=False, why="just begun")
    return Verdict(each, goes=age >= unused, why=f"last used {last.changed:%Y-%m-%d %H:%M}Z{by}")


def main(arguments: Sequence[str]) -> int:
    """Remove what was not used and return the exit status: 0 done, 1 failed with a message, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        unused = _days(options.days)
        training = Settings().var_dir / "training"
        if not training.exists():
            print(f"there is nothing in {training}")
            return 0
        return _prune(
            training, judge(survey(training), datetime.now(UTC), unused), is_dry=options.dry_run
        )
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command removes the rest", file=sys.stderr)
        return 130


def _prune(training: Path, verdicts: Sequence[Verdict], *, is_dry: bool) -> int:
    """Do and print what was judged; return the exit status."""
    width = max((len(verdict.leftover.name) for verdict in verdicts), default=0)
    gone, status = [], 0
    for verdict in verdicts:
        leftover, goes, why = verdict.leftover, verdict.goes, verdict.why
        if goes and not is_dry:
            try:
                stays = remove(training, leftover)
            except OSError as error:
                print(
                    f"error: expected to be able to remove '{training / leftover.name}', found {error.strerror} at '{error.filename}': "
                    "run this as the owner of the files",
                    file=sys.stderr,
                )
                stays, status = "could not be removed", 1
            goes, why = not stays, stays or why
        if goes:
            gone.append(leftover)
        word = (
            ("would go" if is_dry else "removed")
            if goes
            else "left"
            if leftover.kind is Kind.UNKNOWN
            else "stays"
        )
        print(
            f"{word:<8}  {leftover.kind:<18}  {leftover.name:<{width}}  {decimal(leftover.size):>9}  {why}",
            flush=True,
        )
    known = [verdict.leftover for verdict in verdicts if verdict.leftover.kind is not Kind.UNKNOWN]
    sizes = [decimal(sum(leftover.size for leftover in some)) for some in (gone, known)]
    print(
        f"{'would remove' if is_dry else 'removed'} {len(gone)} of {len(known)} in {training}, {sizes[0]} of {sizes[1]}; "
        f"{len(verdicts) - len(known)} unknown"
    )
    return status


def _days(given: str) -> timedelta:
    if not re.fullmatch("[0-9]{1,5}", given) or int(given) > MOST_DAYS:
        raise InputError(
            f"expected --days as a whole number from 0 to {MOST_DAYS}, found '{given}': give the days after which what nobody used goes, "
            "0 for all that is not in use",
            "days",
        )
    return timedelta(days=int(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m train prune",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
        epilog="Windows count as used when a command opens them and when it ends, or when the fits that came of them change; fits do with every "
        "epoch, and with every start of their training. What a command uses while this runs stays, whatever its age, and so does all that "
        "training does not name. On a cluster's disk whose locks (flock) do not reach other nodes only the times count: leave a few days there. What is removed is made again by the command that needs it: windows from the store, fits from their first "
        "epoch (kept ones, --keep-fits, too). Checkpoints, reports and MLflow's runs lie elsewhere and are not touched.",
    )
    parser.add_argument(
        "--days",
        default="30",
        metavar="N",
        help="what was not used for so long goes, 0 for all that is not in use; default 30",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only list what is there and what would go"
    )
    return parser
