"""A window of readings for a warm-up diagnosis, for machines whose own readings nobody may have yet.

Pure. Invariant: every sensor has a reading in every bin, inside its range and never constant.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from app.schemas.equipment import Equipment

WARM_UP_ID = "release-warm-up"
"""An equipment of its own, so that the history of no machine holds warm-ups."""
_SHARE_OF_RANGE = 0.05
_BINS_OF_A_WAVE = 7.0


def warm_up_request(
    equipment: Equipment, version: str, now: datetime, number: int
) -> Mapping[str, Any]:
    """Return the body of a diagnosis of one version on an equipment's topology.

    Args:
        equipment: a registered one.
        version: that must answer.
        now: UTC.
        number: of the warm-up; each has other readings.
    """
    bins = round(equipment.window_s / equipment.grid_s)
    start = now - timedelta(seconds=equipment.window_s + 60)
    return {
        "equipment_id": WARM_UP_ID,
        "model_version": version,
        "equipment": equipment.model_dump(mode="json", exclude={"equipment_id"}),
        "readings": {
            "start": start.isoformat(),
            "step_s": equipment.grid_s,
            "values": {
                placed.sensor.sensor_id: wave(*placed.sensor.range, bins, place + number)
                for place, placed in enumerate(equipment.sensors)
            },
        },
    }


def wave(low: float, high: float, bins: int, phase: float) -> list[float]:
    """Return readings of a sensor that swing around the middle of its range.

    Args:
        low: end of its range, in its unit.
        high: the other end.
        bins: how many readings.
        phase: where the wave begins; readings of other phases differ.
    """
    middle, swing = (low + high) / 2.0, _SHARE_OF_RANGE * (high - low)
    return [
        round(middle + swing * math.sin(phase + step / _BINS_OF_A_WAVE), 6) for step in range(bins)
    ]
