"""Stores, returns and removes the labels of `/v1/labels`: JSON or NDJSON into rows of the store.

Every label is accepted or rejected with a reason; a bad one does not affect the others.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from app.core.errors import HydraulicDiagnosticsError, InputError, LimitExceeded, UnknownEquipment
from app.schemas.labels import (
    Fault,
    Intervals,
    Label,
    LabelsAnswer,
    RejectedLabel,
    fault_of,
    read_label,
)
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.store.labels import EPOCH, MICROSECOND, ConditionLabel
from app.store.store import Store

MAX_LABELS = 20_000
"""Most labels, or lines, of one body."""
MAX_EQUIPMENT = 1_000
"""Most different equipment of one body: each is a transaction."""

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class LabelStore:
    """The labels of registered machines.

    Args:
        store: the database.
        registry: finds topologies.
        now: UTC clock.
    """

    def __init__(
        self, store: Store, registry: EquipmentRegistry, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._registry = registry
        self._now = now

    async def add(self, body: bytes, content_type: str) -> LabelsAnswer:
        """Store a body of labels; accepted ones are committed on return.

        Args:
            body: of the request.
            content_type: NDJSON, or else JSON: a label, a list of them, or `{"labels": [...]}`.

        Raises:
            InputError: the body as a whole can't be read.
            LimitExceeded: it has more than `MAX_LABELS` lines or `MAX_EQUIPMENT` equipment.
        """
        rejected: list[RejectedLabel] = []

        def reject(line: int, fault: Fault) -> None:
            rejected.append(RejectedLabel(line=line, reason=fault.reason, field=fault.field))

        labels: dict[int, Label] = {}
        for line, outcome in _lines(body, content_type):
            if isinstance(outcome, Fault):
                reject(line, outcome)
            else:
                labels[line] = outcome
        if not labels and not rejected:
            raise InputError(
                "expected at least one label, found none: post {equipment_id, component_id, "
                "start, end} with a grade, a health, rul_h or run_to_failure"
            )
        ids = {label.equipment_id for label in labels.values()}
        if len(ids) > MAX_EQUIPMENT:
            raise LimitExceeded(
                f"expected labels of at most {MAX_EQUIPMENT} equipment, found {len(ids)}: send "
                "the body in parts",
                "equipment_id",
            )
        topologies = await self._registry.topologies(sorted(ids))
        now = self._now()
        intervals, by_equipment = Intervals(), defaultdict[str, dict[int, Label]](dict)
        for line, label in labels.items():
            known = topologies[label.equipment_id]
            if isinstance(known, UnknownEquipment):
                reject(line, Fault(known.message, "equipment_id"))
            elif isinstance(known, HydraulicDiagnosticsError):
                raise known
            elif fault := fault_of(label, known, now):
                reject(line, fault)
            elif other := intervals.add(label, line):
                reject(
                    line,
                    Fault(
                        f"expected one label of '{label.component_id}' at a time, found one that "
                        f"overlaps line {other}: correct one of them",
                        "start",
                    ),
                )
            else:
                by_equipment[label.equipment_id][line] = label
        accepted = replaced = duplicates = 0
        for equipment_id, of_lines in by_equipment.items():
            written = await self._store.add_labels(
                equipment_id, [ConditionLabel.of(label) for label in of_lines.values()]
            )
            accepted += written.accepted
            replaced += written.replaced
            duplicates += written.duplicates
            lines = list(of_lines)
            for position, stored in written.clashes.items():
                reject(lines[position], _overlap(stored.label(equipment_id)))
        return LabelsAnswer.of(accepted, replaced, duplicates, rejected)

    async def page(
        self,
        equipment_id: str,
        interval: tuple[datetime | None, datetime | None],
        component_id: str | None,
        limit: int,
        after: tuple[datetime, str] | None,
    ) -> list[Label]:
        """Return labels that overlap an interval, by start, then component.

        Raises:
            UnknownEquipment: the equipment is neither registered nor deleted.
        """
        await self._registry.known_topology(equipment_id)
        start, end = (None if at is None else (at - EPOCH) // MICROSECOND for at in interval)
        bounds = {"start_us": start, "end_us": end}
        rows = await self._store.read_labels(
            equipment_id,
            **{name: at for name, at in bounds.items() if at is not None},
            component_id=component_id,
            after=None if after is None else ((after[0] - EPOCH) // MICROSECOND, after[1]),
            limit=limit,
        )
        return [row.label(equipment_id) for row in rows]

    async def remove(
        self, equipment_id: str, start: datetime, end: datetime, component_id: str | None
    ) -> int:
        """Remove the labels that begin in [start, end) and return how many.

        Raises:
            UnknownEquipment: the equipment is neither registered nor deleted.
        """
        await self._registry.known_topology(equipment_id)
        return await self._store.delete_labels(equipment_id, start, end, component_id)


def _overlap(stored: Label) -> Fault:
    return Fault(
        f"expected no label of '{stored.component_id}' where one is stored, found one of "
        f"[{stored.start.isoformat()}, {stored.end.isoformat()}): give the same start to replace "
        f"it, or delete it with DELETE /v1/equipment/{stored.equipment_id}/labels",
        "start",
    )


def _lines(body: bytes, content_type: str) -> Iterator[tuple[int, Label | Fault]]:
    if content_type.partition(";")[0].strip().lower() in NDJSON:
        if body.count(b"\n") > MAX_LABELS:
            raise _too_many()
        for number, line in enumerate(body.split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                values = from_json(line)
            except ValueError:
                yield number, Fault("expected a JSON object, found text that does not parse")
                continue
            yield number, _read(values)
        return
    items = _items(body)
    if len(items) > MAX_LABELS:
        raise _too_many()
    for number, item in enumerate(items, start=1):
        yield number, _read(item)


def _read(values: Any) -> Label | Fault:
    outcome = read_label(values)
    return outcome if isinstance(outcome, Label) else outcome[0]


def _items(body: bytes) -> Sequence[Any]:
    try:
        document = from_json(body)
    except ValueError as error:
        raise InputError(
            f"expected JSON, found text that does not parse ({error}): correct it, or send one "
            "label a line as application/x-ndjson"
        ) from error
    if isinstance(document, dict) and set(document) == {"labels"}:
        document = document["labels"]
    return document if isinstance(document, list) else [document]


def _too_many() -> LimitExceeded:
    return LimitExceeded(
        f"expected at most {MAX_LABELS} labels, found more: send the body in parts", "body"
    )
