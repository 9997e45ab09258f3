"""Puts the baseline of a simulated machine in force, as if it had been measured when new."""

from datetime import datetime, timedelta

from app.core.errors import ConflictError
from app.features.baseline import Baseline
from app.features.references import LEAST_WINDOWS
from app.store.baselines import NewBaseline
from app.store.store import Store

ACTOR = "demo"
"""Recorded as who recorded the baselines."""


async def put_as_new(
    store: Store, equipment_id: str, revision: str, baseline: Baseline, history: datetime
) -> None:
    """Put the baseline of a simulated machine in force, unless it has one by somebody else.

    Its interval ends one day before the readings begin.

    Args:
        store: has the machine.
        equipment_id: of the machine.
        revision: of its topology.
        baseline: of the machine.
        history: when its readings begin.

    Raises:
        ConflictError: the machine has another topology by now.
    """
    record = await store.get_equipment(equipment_id)
    if record is not None and record.baseline_id:
        in_force = (await store.baselines([record.baseline_id]))[record.baseline_id]
        if in_force.recorded_by != ACTOR:
            return
    is_put = await store.put_baseline(
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
    if not is_put:
        raise ConflictError(
            f"expected the topology of '{equipment_id}' not to change while its baseline is put in "
            "force, found another one: repeat the command"
        )
