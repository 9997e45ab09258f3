"""Puts the baseline of a simulated machine in force, as if it had been measured when new."""

from datetime import datetime, timedelta

from app.features.baseline import Baseline
from app.features.references import LEAST_WINDOWS
from app.store.baselines import NewBaseline
from app.store.store import Store

ACTOR = "demo"
"""Recorded as who recorded the baselines."""


async def put_as_new(
    store: Store, equipment_id: str, revision: str, baseline: Baseline, history: datetime
) -> None:
    """Put the baseline of a simulated machine in force, as of the day before the last one.

    Args:
        store: has the machine.
        equipment_id: of the machine.
        revision: of its topology.
        baseline: of the machine.
        history: when its readings begin.
    """
    await store.put_baseline(
        equipment_id,
        revision,
        NewBaseline(
            baseline_id=baseline.digest,
            start=history - timedelta(days=2),
            end=history - timedelta(days=1),
            windows=LEAST_WINDOWS,
            missing_sensors=(),
            stuck_sensors=(),
            moments=baseline.model_dump_json(),
        ),
        ACTOR,
    )
