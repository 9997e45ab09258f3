"""Labels: what is known of a component in an interval, as HTTP and CSV files give it.

One model for both: `read_label` and `fault_of` say what is wrong with a label in the same words.
Invariant: labels of one component do not overlap, so a label says one thing of its interval.
"""

import bisect
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.schemas.equipment import Equipment, Identifier
from app.schemas.places import shown, some_of
from app.schemas.times import EARLIEST, LATEST_AHEAD, AwareTime

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_LISTED_REJECTED = 1_000
VALUES = ("grade", "health", "rul_h", "run_to_failure")
"""Of these a label has exactly one."""

_EXPECTED: Mapping[str, str] = {
    "equipment_id": "the id of an equipment as equipment_id",
    "component_id": "the id of a component as component_id",
    "start": "an ISO 8601 time such as 2025-01-01T00:00Z as start",
    "end": "an ISO 8601 time such as 2025-01-01T00:00Z as end",
    "grade": "a grade of 1 to 64 characters",
    "health": "a health from 0 to 1",
    "rul_h": "operating hours from 0 to 1000000 as rul_h",
    "run_to_failure": "true or false as run_to_failure",
    "stable": "true or false as stable",
    "cycle": "a whole number as cycle",
}


class Label(BaseModel):
    """What is known of a component in [start, end): a grade, a health, or its remaining life.

    Exactly one of `grade`, `health`, `rul_h` and `run_to_failure` is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment_id: Identifier
    component_id: Identifier
    start: AwareTime
    end: AwareTime
    grade: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=64),
            Field(description="one of the component's grades in the topology"),
        ]
        | None
    ) = None
    health: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    rul_h: (
        Annotated[
            float,
            Field(
                ge=0.0,
                le=1e6,
                allow_inf_nan=False,
                description="remaining useful life at the end of the interval, in operating hours",
            ),
        ]
        | None
    ) = None
    run_to_failure: Annotated[
        bool, Field(description="the component ran from the start and failed at the end")
    ] = False
    stable: Annotated[bool, Field(description="false while the machine was settling")] = True
    cycle: (
        Annotated[
            int,
            Field(ge=0, le=2**31 - 1, description="number of the cycle in its source"),
        ]
        | None
    ) = None


class Fault(NamedTuple):
    """Why a label is rejected, and its field; empty for the whole label."""

    reason: str
    field: str = ""


class RejectedLabel(BaseModel):
    """A rejected line or list item, counted from 1, and why."""

    model_config = ConfigDict(frozen=True)

    line: int
    reason: str
    field: str = ""


class LabelsAnswer(BaseModel):
    """Result of a body of labels: each was accepted, stored already, a replacement or rejected.

    `accepted` includes `replaced`: labels that replaced one of the same component and start.
    `rejected` has the first 1,000 rejected lines; `rejected_count` is given when there are more.
    """

    model_config = ConfigDict(frozen=True)

    accepted: int
    replaced: int
    duplicates: int
    rejected: list[RejectedLabel]
    rejected_count: int | None = None

    @classmethod
    def of(cls, accepted: int, replaced: int, duplicates: int, all_: list[RejectedLabel]) -> Self:
        """Return the answer with at most `MAX_LISTED_REJECTED` rejected lines, in their order."""
        return cls(
            accepted=accepted,
            replaced=replaced,
            duplicates=duplicates,
            rejected=sorted(all_, key=lambda each: each.line)[:MAX_LISTED_REJECTED],
            rejected_count=len(all_) if len(all_) > MAX_LISTED_REJECTED else None,
        )


def read_label(values: Any, *, text: bool = False) -> Label | list[Fault]:
    """Read one label; return all of its faults if it has any.

    Args:
        values: parsed JSON, or the cells of a CSV line by column.
        text: whether all values are text.
    """
    try:
        return Label.model_validate_strings(values) if text else Label.model_validate(values)
    except ValidationError as error:
        return [_fault(item) for item in error.errors(include_url=False, include_context=False)]


def _fault(item: "ErrorDetails") -> Fault:
    field, found = str(item["loc"][0]) if item["loc"] else "", shown(item["input"])
    if not field:
        return Fault(f"expected a JSON object, found {found}")
    if field not in _EXPECTED:
        return Fault(f"expected no field {shown(field)}: check its spelling or leave it out")
    expected = _EXPECTED[field]
    if item["type"] == "timezone_aware":
        expected = f"a time with its zone as {field}"
    return Fault(
        f"expected {expected}, found {'none' if item['type'] == 'missing' else found}", field
    )


def fault_of(label: Label, equipment: Equipment, now: datetime) -> Fault | None:
    """Return what is wrong with a label of an equipment, or None.

    Args:
        label: as `read_label` returns it.
        equipment: of the label.
        now: UTC; nothing is known of later times.
    """
    for field, at in (("start", label.start), ("end", label.end)):
        if not EARLIEST <= at <= now + LATEST_AHEAD:
            return Fault(
                f"expected a time from {EARLIEST.year} to 5 minutes from now, found "
                f"{at.isoformat()}: correct it",
                field,
            )
    if label.end <= label.start:
        return Fault(
            f"expected an end after the start {label.start.isoformat()}, found "
            f"{label.end.isoformat()}: correct it",
            "end",
        )
    given = [name for name in VALUES if getattr(label, name) not in (None, False)]
    if len(given) != 1:
        return Fault(
            f"expected exactly one of {', '.join(VALUES)}, found {' and '.join(given) or 'none'}: "
            "write a label for each",
            given[1] if given else "",
        )
    components = {each.component_id: each for each in equipment.components}
    if label.component_id not in components:
        return Fault(
            f"expected a component of {some_of(sorted(components))}, found '{label.component_id}'",
            "component_id",
        )
    grades = [grade.name for grade in components[label.component_id].grades]
    if label.grade is not None and label.grade not in grades:
        return Fault(
            f"expected a grade of '{label.component_id}', found {shown(label.grade)}: "
            f"{'there are ' + some_of(grades) if grades else 'it has none, give a health'}",
            "grade",
        )
    return None


class Intervals:
    """The intervals of the labels of one body by component; they do not overlap."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], list[tuple[datetime, datetime, int]]] = {}

    def add(self, label: Label, line: int) -> int | None:
        """Add the interval of a label.

        Returns:
            The line that it overlaps, and then it is not added; else None.
        """
        known = self._of.setdefault((label.equipment_id, label.component_id), [])
        place = bisect.bisect(known, (label.start, label.end, line))
        for start, end, other in known[max(0, place - 1) : place + 1]:
            if label.start < end and start < label.end:
                return other
        known.insert(place, (label.start, label.end, line))
        return None
