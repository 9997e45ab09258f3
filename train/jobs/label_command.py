"""Import labels of an equipment from a CSV file: `hydraulic train label ID FILE.csv`.

The columns are `start,end,component` and any of grade, health, rul_h, run_to_failure, stable and
cycle, as in `POST /v1/labels`. Invariant: nothing is written when any line is invalid, and the
message names every invalid line.
"""

import asyncio
import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.core.errors import InputError
from app.core.settings import Settings
from app.schemas.equipment import Equipment
from app.schemas.labels import VALUES, Fault, Intervals, Label, fault_of, read_label
from app.store.labels import ConditionLabel
from app.store.store import open_store

COLUMNS = ("start", "end", "component")
VALUE_COLUMNS = ("grade", "health", "rul_h", "run_to_failure", "stable", "cycle")
MOST_SHOWN = 20
"""Invalid lines, or known equipment, that a message lists at most."""


def label(equipment_id: str, path: Path, dsn: str | None) -> int:
    """Write the labels of a file, print how many, and return the exit status."""
    count = asyncio.run(_label(Settings().at(dsn), equipment_id, path))
    print(f"wrote {count} labels of {equipment_id}")
    return 0


async def _label(settings: Settings, equipment_id: str, path: Path) -> int:
    store = open_store(settings)
    try:
        await store.migrate()
        record = await store.get_equipment(equipment_id)
        if record is None:
            known = ", ".join((await store.find_equipment())[:MOST_SHOWN]) or "no equipment"
            raise InputError(
                f"expected a registered equipment, found '{equipment_id}'; the store has {known}",
                "equipment",
            )
        labels = read_labels(path, record.equipment, datetime.now(UTC))
        rows = [ConditionLabel.of(label) for label in labels.values()]
        written = await store.add_labels(equipment_id, rows, whole=True)
        if written.clashes:
            position, stored = min(written.clashes.items())
            line, label = list(labels.items())[position]
            raise InputError(
                f"{path.name} line {line}: expected no label of '{label.component_id}' where the "
                f"store has one, found two at {label.start.isoformat()} (the stored one begins at "
                f"{stored.label(equipment_id).start.isoformat()}): nothing was written, give the "
                "same start to replace the stored one",
                path.name,
            )
        return len(labels)
    finally:
        await store.close()


def read_labels(path: Path, equipment: Equipment, now: datetime) -> dict[int, Label]:
    """Read the labels of a file by line.

    Args:
        path: CSV with a header of `COLUMNS` and any of `VALUE_COLUMNS`; an empty cell is no value.
        equipment: whose components are labelled.
        now: UTC; labels of later times are invalid.

    Raises:
        InputError: the file can't be read, or a line is invalid; the message names each such line
            with what was expected and found.
    """
    name = path.name
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[word.strip() for word in row] for row in csv.reader(file)]
    except OSError as error:
        raise InputError(
            f"expected a CSV file of labels at '{path}', found none to read ({error.strerror})",
            str(path),
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"expected a CSV file in UTF-8 at '{path}', found another content: {error}", str(path)
        ) from error
    header = rows[0] if rows else []
    values = header[len(COLUMNS) :]
    is_known = tuple(header[: len(COLUMNS)]) == COLUMNS and set(values) <= set(VALUE_COLUMNS)
    if header and (not is_known or not values or len(set(values)) < len(values)):
        raise InputError(
            f"{name} line 1: expected the columns {','.join(COLUMNS)},health, found "
            f"{','.join(header) or 'an empty line'}; with health or in its place there may be "
            f"{', '.join(VALUE_COLUMNS)}",
            name,
        )
    intervals, labels, messages = Intervals(), dict[int, Label](), list[str]()
    for line, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        outcome = _label_of(row, header, equipment, now)
        if not isinstance(outcome, Label):
            messages += [f"{name} line {line}: {fault.reason}" for fault in outcome]
        elif other := intervals.add(outcome, line):
            messages.append(
                f"{name} line {line}: expected one label of '{outcome.component_id}' at a time, "
                f"found one that overlaps line {other}"
            )
        else:
            labels[line] = outcome
    if not labels and not messages:
        messages = [f"{name}: expected at least one label, found none"]
    if messages:
        more = len(messages) - MOST_SHOWN
        raise InputError(
            "; ".join(messages[:MOST_SHOWN])
            + (f"; and {more} more" if more > 0 else "")
            + ": nothing was written, correct the file",
            name,
        )
    return labels


def _label_of(
    row: Sequence[str], header: Sequence[str], equipment: Equipment, now: datetime
) -> Label | list[Fault]:
    """Return the label of a line, or all of its faults."""
    if len(row) != len(header):
        return [Fault(f"expected {len(header)} columns, found {len(row)}")]
    cells = {column: cell for column, cell in zip(header, row, strict=True) if cell}
    if "component" in cells:
        cells["component_id"] = cells.pop("component")
    cells["equipment_id"] = equipment.equipment_id
    read, faults = read_label(cells, text=True), list[Fault]()
    if not isinstance(read, Label):
        # the rest of the line is checked too
        faults = read
        bad = {fault.field for fault in faults}
        good = {field: cell for field, cell in cells.items() if field not in {*bad, *VALUES}}
        if bad & {"start", "end"}:
            good |= {"start": "2000-01-01T00:00Z", "end": "2000-01-02T00:00Z"}
        read = read_label(good | {"run_to_failure": "true"}, text=True)
    if isinstance(read, Label) and (fault := fault_of(read, equipment, now)):
        faults.append(fault)
    return read if isinstance(read, Label) and not faults else faults
