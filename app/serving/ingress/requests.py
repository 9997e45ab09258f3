"""Resolves a request: its machine, its window and the readings that came with it.

Pure: machines and the clock are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.core.errors import InputError
from app.diagnosis.evidence import MAX_EXPLAINED_SENSORS, too_large_to_explain
from app.features.binning import Floats
from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.topology import parse_equipment
from app.serving.ingress.windows import Bins, inline_window, window_before


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request whose machine and window are known.

    Args:
        request: of the caller.
        equipment: the machine.
        bins: of its window.
        inline: means of the request's own readings in bins, [S, N]; None for stored readings.
    """

    request: DiagnosisRequest
    equipment: Equipment
    bins: Bins
    inline: Floats | None

    @property
    def weight(self) -> int:
        """Sensor bins of the window, in proportion to its work."""
        return max(1, len(self.equipment.sensors) * self.bins.length)


def resolve(request: DiagnosisRequest, registered: Equipment | None, now: datetime) -> Resolved:
    """Resolve a request.

    Args:
        request: of the caller.
        registered: the machine's registered topology; None when the request brings its own.
        now: UTC.

    Raises:
        HydraulicDiagnosticsError: the request can't be diagnosed.
    """
    equipment = (
        registered if request.equipment is None else _inline_equipment(request, request.equipment)
    )
    assert equipment is not None
    if request.explain and len(equipment.sensors) > MAX_EXPLAINED_SENSORS:
        raise too_large_to_explain(len(equipment.sensors))
    if request.readings is None:
        return Resolved(request, equipment, window_before(equipment, request.at, now), None)
    if request.at is not None:
        raise InputError("expected either `at` or `readings`, found both: leave one out", "at")
    bins, values_SN = inline_window(equipment, request.readings, now)
    return Resolved(request, equipment, bins, values_SN)


def _inline_equipment(request: DiagnosisRequest, topology: Mapping[str, Any]) -> Equipment:
    if request.readings is None:
        raise InputError(
            "expected `readings` beside an inline `equipment`, found none: add them", "readings"
        )
    equipment = parse_equipment({"equipment_id": request.equipment_id, **topology}, "equipment")
    if equipment.equipment_id != request.equipment_id:
        raise InputError(
            f"expected equipment.equipment_id '{request.equipment_id}', found "
            f"'{equipment.equipment_id}': make them equal",
            "equipment.equipment_id",
        )
    return equipment
