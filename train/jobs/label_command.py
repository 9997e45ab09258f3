"""Import health labels of an equipment from a CSV file: `hydraulic train label ID FILE.csv`.

The columns are `start,end,component,health`. Invariant: nothing is written when any line is
invalid, and the message names every invalid line.
"""

import asyncio
import csv
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import pandas as pd

from app.core.errors import InputError
from app.core.settings import Settings
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from app.store.store import Store, open_store
from train.data.labels import EPOCH

COLUMNS = ("start", "end", "component", "health")
MOST_SHOWN = 20
"""Invalid lines, or known equipment, that a message lists at most."""
WITH_ZONE = r"[T ].*(?:Z|[+-]\d\d(?::?\d\d)?)$"
CHECKS = {
    "width": "expected {columns} columns, found {width}",
    "start": "expected an ISO 8601 time such as 2025-01-01T00:00Z as start, found '{start}'",
    "start zone": "expected a time with its zone as start, found '{start}'",
    "end": "expected an ISO 8601 time such as 2025-01-01T00:00Z as end, found '{end}'",
    "end zone": "expected a time with its zone as end, found '{end}'",
    "order": "expected an end after the start {start}, found {end}",
    "component": "expected a component of {components}, found '{component}'",
    "health": "expected a health from 0 to 1, found '{health}'",
}
"""What is checked of a line, with the message of a line that fails."""


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
        labels = read_labels(path, record.equipment)
        await _check_against_store(store, equipment_id, labels, path.name)
        return await store.put_labels(equipment_id, labels)
    finally:
        await store.close()


def read_labels(path: Path, equipment: Equipment) -> list[ConditionLabel]:
    """Read the labels of a file.

    Args:
        path: CSV with the header `start,end,component,health`; times are ISO 8601 with their zone,
            health is in [0, 1].
        equipment: whose components are labelled.

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
    if rows and tuple(rows[0]) != COLUMNS:
        raise InputError(
            f"{name} line 1: expected the columns {','.join(COLUMNS)}, found "
            f"{','.join(rows[0]) or 'an empty line'}",
            name,
        )
    lines = [line for line, row in enumerate(rows, 1) if line > 1 and any(row)]
    filled = [(*rows[line - 1], *[""] * len(COLUMNS))[: len(COLUMNS)] for line in lines]
    table = pd.DataFrame(filled, columns=list(COLUMNS), index=lines, dtype=str)
    table["width"] = [len(rows[line - 1]) for line in lines]
    components = sorted(component.component_id for component in equipment.components)
    labels = pd.DataFrame(
        {
            "component": table.component,
            "start_us": _microseconds(table.start),
            "end_us": _microseconds(table.end),
            "health": pd.to_numeric(table.health, errors="coerce"),
        }
    )
    faults = _faults(table, labels, components)
    labels = labels.drop(index=[line for line, _ in faults])
    messages = [f"{name} line {line}: {fault}" for line, fault in faults]
    messages += [
        f"{name} line {later.Index}: expected one label of '{later.component}' at a time, found "
        f"one that overlaps line {later.previous:.0f}"
        for later in _overlapping(labels).itertuples()
    ]
    if not len(labels) and not messages:
        messages = [f"{name}: expected at least one label, found none"]
    if messages:
        more = len(messages) - MOST_SHOWN
        raise InputError(
            "; ".join(messages[:MOST_SHOWN])
            + (f"; and {more} more" if more > 0 else "")
            + ": nothing was written, correct the file",
            name,
        )
    return [
        ConditionLabel(component, int(start_us), int(end_us), health=health)
        for component, start_us, end_us, health in labels.to_numpy().tolist()
    ]


def _faults(
    table: pd.DataFrame, labels: pd.DataFrame, components: Sequence[str]
) -> list[tuple[int, str]]:
    """Return line number and message of every failed check, in order of the lines."""
    is_whole = table.width == len(COLUMNS)
    zones = {name: table[name].str.contains(WITH_ZONE) for name in ("start", "end")}
    times = {"start": labels.start_us, "end": labels.end_us}
    failed = {
        "width": ~is_whole,
        **{name: is_whole & times[name].isna() for name in times},
        **{f"{name} zone": is_whole & times[name].notna() & ~zones[name] for name in times},
        "order": is_whole & zones["start"] & zones["end"] & (labels.end_us <= labels.start_us),
        "component": is_whole & ~table.component.isin(components),
        "health": is_whole & ~labels.health.between(0.0, 1.0),
    }
    known = {"columns": str(len(COLUMNS)), "components": ", ".join(components)}
    found: list[tuple[int, str]] = []
    for name, check in CHECKS.items():
        bad = table[failed[name]].astype(str)
        rows: list[dict[str, str]]
        rows = bad.to_dict("records")  # type: ignore[assignment]
        for line, row in zip(bad.index.tolist(), rows, strict=True):
            found.append((line, check.format(**known, **row)))
    return sorted(found, key=lambda fault: fault[0])


def _overlapping(labels: pd.DataFrame) -> pd.DataFrame:
    """Return the labels that begin before the previous one of their component ends.

    Column `previous` holds the index of that one.
    """
    ordered = labels.sort_values(["component", "start_us"], kind="stable")
    ordered["previous"] = ordered.index
    before = ordered.groupby("component").shift()
    ordered["previous"] = before.previous
    return ordered[ordered.start_us < before.end_us]


async def _check_against_store(
    store: Store, equipment_id: str, labels: Sequence[ConditionLabel], name: str
) -> None:
    """Refuse labels that overlap stored ones which they do not replace."""
    replaced = {(label.component_id, label.start_us) for label in labels}
    first, end = min(each.start_us for each in labels), max(each.end_us for each in labels)
    stored = [
        label
        for label in await store.read_labels(equipment_id, first, end)
        if (label.component_id, label.start_us) not in replaced
    ]
    both = _overlapping(_intervals([*stored, *labels]))
    clash = both[(both.index < len(stored)) != (both.previous < len(stored))]
    if len(clash):
        at = (EPOCH + timedelta(microseconds=int(clash.start_us.iloc[0]))).isoformat()
        raise InputError(
            f"{name}: expected no label of '{clash.component.iloc[0]}' where the store has one, "
            f"found two at {at}: nothing was written, give the same start to replace the stored "
            "one",
            name,
        )


def _intervals(labels: Iterable[ConditionLabel]) -> pd.DataFrame:
    rows = [(each.component_id, each.start_us, each.end_us) for each in labels]
    return pd.DataFrame(rows, columns=["component", "start_us", "end_us"])


def _microseconds(column: "pd.Series[str]") -> "pd.Series[int]":
    """Return times as microseconds since 1970, exact below 2 ** 53; NaN where not a time."""
    times = pd.to_datetime(column, format="ISO8601", utc=True, errors="coerce")
    return (times - pd.Timestamp(EPOCH)) // pd.Timedelta(microseconds=1)
