"""Labels an equipment's history from a CSV file: `python -m train labels ID FILE.csv` with lines `start,end,component,health`.

Invariant: nothing is written when any line is bad, and every bad line is told.
"""

import argparse
import asyncio
import csv
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from app.core.errors import HydraulicDiagnosticsError, InputError
from app.core.settings import Settings
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from app.store.open import open_store
from app.store.store import Store

COLUMNS = ("start", "end", "component", "health")
MOST_TOLD = 20
"""Bad lines that are told one by one."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def main(arguments: Sequence[str]) -> int:
    """Write labels and return the exit status: 0 done, 1 failed with a message, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        count = asyncio.run(_label(Settings().at(options.dsn), options.equipment, options.file))
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return 130
    print(f"wrote {count} labels of {options.equipment}")
    return 0


async def _label(settings: Settings, equipment_id: str, path: Path) -> int:
    store = open_store(settings)
    try:
        await store.migrate()
        record = await store.get_equipment(equipment_id)
        if record is None:
            known = ", ".join((await store.find_equipment())[:MOST_TOLD]) or "no equipment at all"
            raise InputError(
                f"expected a registered equipment, found '{equipment_id}'; there is {known}",
                "equipment",
            )
        labels = read_labels(path, record.equipment)
        await _check_apart_from_stored(store, equipment_id, labels, path)
        return await store.put_labels(equipment_id, labels)
    finally:
        await store.close()


def read_labels(path: Path, equipment: Equipment) -> list[ConditionLabel]:
    """Read the labels of a file.

    Args:
        path: CSV with a first line `start,end,component,health`; times are ISO 8601 with their zone, health is in [0, 1].
        equipment: whose components are labelled.

    Raises:
        InputError: the file can't be read, or any line is bad; the message tells each, with what was expected and found.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return _labels(csv.reader(lines), path.name, equipment)
    except OSError as error:
        raise InputError(
            f"expected a CSV file of labels at '{path}', found none to read ({error.strerror})",
            str(path),
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"expected a CSV file in UTF-8 at '{path}', found something else: {error}", str(path)
        ) from error


def _labels(rows: Iterable[list[str]], name: str, equipment: Equipment) -> list[ConditionLabel]:
    labels: list[tuple[int, ConditionLabel]] = []
    faults: list[str] = []
    components = {component.component_id for component in equipment.components}
    for line, row in enumerate(rows, 1):
        words = [word.strip() for word in row]
        if line == 1:
            if tuple(words) != COLUMNS:
                raise InputError(
                    f"{name} line 1: expected the columns {','.join(COLUMNS)}, found {','.join(words) or 'an empty line'}",
                    name,
                )
            continue
        if not any(words):
            continue
        found = list(_faults(words, components))
        if found:
            faults += [f"{name} line {line}: {fault}" for fault in found]
            continue
        start, end = (_microseconds(word) for word in words[:2])
        labels.append((line, ConditionLabel(words[2], start, end, health=float(words[3]))))
    faults += _overlaps(labels, name)
    if not labels and not faults:
        faults.append(f"{name}: expected at least one label, found none")
    if faults:
        more = f"; and {len(faults) - MOST_TOLD} more" if len(faults) > MOST_TOLD else ""
        raise InputError(
            "; ".join(faults[:MOST_TOLD]) + more + ": nothing was written, correct the file", name
        )
    return [label for _, label in labels]


def _faults(words: Sequence[str], components: set[str]) -> Iterator[str]:
    """Tell what is wrong with a line."""
    if len(words) != len(COLUMNS):
        yield f"expected {len(COLUMNS)} columns, found {len(words)}"
        return
    times = []
    for column, word in zip(COLUMNS, words[:2], strict=False):
        try:
            time = datetime.fromisoformat(word)
        except ValueError:
            yield f"expected an ISO 8601 time such as 2025-01-01T00:00Z as {column}, found '{word}'"
            continue
        if time.tzinfo is None:
            yield f"expected a time with its zone as {column}, found '{word}'"
            continue
        times.append(time)
    if len(times) == 2 and times[1] <= times[0]:
        yield f"expected an end after the start {words[0]}, found {words[1]}"
    if words[2] not in components:
        yield f"expected a component of {', '.join(sorted(components))}, found '{words[2]}'"
    try:
        health = float(words[3])
    except ValueError:
        health = math.nan
    if not 0.0 <= health <= 1.0:
        yield f"expected a health from 0 to 1, found '{words[3]}'"


def _overlaps(labels: Sequence[tuple[int, ConditionLabel]], name: str) -> list[str]:
    in_time = sorted(labels, key=lambda each: (each[1].component_id, each[1].start_us))
    return [
        f"{name} line {later[0]}: expected one label of '{later[1].component_id}' at a time, found one that overlaps line {earlier[0]}"
        for earlier, later in pairwise(in_time)
        if earlier[1].component_id == later[1].component_id
        and later[1].start_us < earlier[1].end_us
    ]


async def _check_apart_from_stored(
    store: Store, equipment_id: str, labels: Sequence[ConditionLabel], path: Path
) -> None:
    """Refuse labels that overlap stored ones which they do not replace."""
    replaced = {(label.component_id, label.start_us) for label in labels}
    stored = [
        label
        for label in await store.read_labels(
            equipment_id,
            min(label.start_us for label in labels),
            max(label.end_us for label in labels),
        )
        if (label.component_id, label.start_us) not in replaced
    ]
    for component_id in {label.component_id for label in labels}:
        both = sorted(
            (label.start_us, label.end_us, kept)
            for kept, some in ((True, stored), (False, labels))
            for label in some
            if label.component_id == component_id
        )
        for earlier, later in pairwise(both):
            if later[0] < earlier[1] and earlier[2] != later[2]:
                at = (_EPOCH + timedelta(microseconds=later[0])).isoformat()
                raise InputError(
                    f"{path.name}: expected no label of '{component_id}' where the store has one, found two at {at}: nothing was "
                    "written, give the same start to replace the stored one",
                    path.name,
                )


def _microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m train labels",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
    )
    parser.add_argument("equipment", metavar="ID", help="equipment whose history is labelled")
    parser.add_argument("file", type=Path, metavar="FILE.csv", help=f"lines of {','.join(COLUMNS)}")
    parser.add_argument(
        "--dsn",
        help="database; without it HYDRAULIC_DSN, which no other user can see, or the local one",
    )
    return parser
