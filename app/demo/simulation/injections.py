"""Faults that a person injects into a machine while it is fed, in files that the feed reads.

One file per machine under `<var>/simulation`. Invariant: a file is replaced whole, so the feed
never reads half of one.
"""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from app.demo.simulation.wear import WearPlan
from app.schemas.times import AwareTime


class Injection(BaseModel):
    """A fault that grows from a time on to a severity, over operating hours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: str
    severity: float
    over_h: float
    start: AwareTime


_INJECTIONS = TypeAdapter(tuple[Injection, ...])


def injections_of(var_dir: Path, equipment_id: str) -> tuple[Injection, ...]:
    """Return the injected faults of a machine, in the order of their injection."""
    path = _file(var_dir, equipment_id)
    return _INJECTIONS.validate_json(path.read_bytes()) if path.exists() else ()


def inject(var_dir: Path, equipment_id: str, injection: Injection) -> None:
    """Add an injected fault to a machine."""
    path = _file(var_dir, equipment_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    every = (*injections_of(var_dir, equipment_id), injection)
    beside = path.with_suffix(".partial")
    beside.write_bytes(_INJECTIONS.dump_json(every, indent=2))
    beside.replace(path)


def plan_with(plan: WearPlan, injections: tuple[Injection, ...], start: datetime) -> WearPlan:
    """Return the wear of a machine with its injected faults.

    Args:
        plan: without them.
        injections: of the machine.
        start: time of its operating hour 0.

    Raises:
        ReadingError: the design has no such fault, or a number is out of range.
    """
    for each in injections:
        hour = (each.start - start).total_seconds() / 3_600
        plan = plan.injected(each.fault, each.severity, hour, each.over_h)
    return plan


def _file(var_dir: Path, equipment_id: str) -> Path:
    return var_dir / "simulation" / f"{equipment_id}.json"
