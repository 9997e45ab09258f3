"""Stores pairs of diagnoses as the service does: one returned, one by a shadow version."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg

from app.schemas.diagnosed_input import InputQuality, Window
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis
from app.store.store import Store
from tests.rows import stored_row

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

_PARTITION = "select prepare_months(array[date_trunc('month', $1::timestamptz, 'UTC')])"
_INSERT = """insert into shadow_answers (
    diagnosis_id, created_at, equipment_id, window_start, window_end, version, against,
    latency_s, against_latency_s, body
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""


class ComponentPrediction(NamedTuple):
    """The prediction for the pump."""

    condition: str | None
    health: float | None = 0.9
    state: str = "healthy"


def diagnosis(
    number: int,
    version: str,
    pump: ComponentPrediction,
    *,
    equipment_id: str = "press-1",
    created_at: datetime | None = None,
) -> Diagnosis:
    """Return a diagnosis of the window that ends `number` minutes after the start."""
    end = START + number * MINUTE
    abstains = pump.health is None
    component = ComponentDiagnosis(
        component_id="pump",
        health=pump.health,
        interval=(0.0, 1.0),
        state="unknown" if abstains else pump.state,
        basis="none" if abstains else "labels",
        condition=pump.condition,
        confidence=None if pump.condition is None else 0.9,
        degradation_rate=None,
        degradation_reason="none",
        rul_h=None,
        rul_interval_h=None,
        rul_reason="none",
    )
    return Diagnosis(
        diagnosis_id=f"{number:032x}",
        equipment_id=equipment_id,
        created_at=created_at or end,
        window=Window(start=end - MINUTE, end=end),
        model_version=version,
        topology_revision="r",
        fallback=False,
        input=InputQuality(
            source="store",
            missing_sensors=(),
            faulty_sensors=(),
            unusual_sensors=(),
            coverage=1.0,
            stale_s=1.0,
        ),
        status="insufficient_evidence" if abstains else "ok",
        reasons=("none",) if abstains else (),
        health=pump.health,
        components=(component,),
    )


async def put_pairs(
    dsn: str, store: Store, returned: Sequence[Diagnosis], shadow: Sequence[Diagnosis]
) -> None:
    """Store returned diagnoses (latency 0.02 s) and those of a shadow (latency 0.03 s)."""
    await store.insert_diagnoses([stored_row(item) for item in returned])
    await put_shadow_answers(dsn, returned, shadow)


async def put_shadow_answers(
    dsn: str, returned: Sequence[Diagnosis], shadow: Sequence[Diagnosis]
) -> None:
    """Store the diagnoses of a shadow, one for each returned diagnosis, stored or not."""
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
    try:
        for month in {item.created_at.date().replace(day=1) for item in returned}:
            await session.execute(_PARTITION, datetime(month.year, month.month, 1, tzinfo=UTC))
        await session.executemany(
            _INSERT,
            [
                (
                    *(first.diagnosis_id, first.created_at, first.equipment_id),
                    *(first.window.start, first.window.end),
                    *(second.model_version, first.model_version, 0.03, 0.02),
                    second.to_json().decode(),
                )
                for first, second in zip(returned, shadow, strict=True)
            ],
        )
    finally:
        await session.close()
