import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg

from app.schemas.diagnosed_input import InputQuality, Window
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis
from app.store.diagnoses import ShadowAnswer
from app.store.store import Store
from tests.rows import stored_row

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def diagnosis(
    diagnosis_id: str, end: datetime, created_at: datetime = NOW, equipment_id: str = "rig"
) -> Diagnosis:
    component = ComponentDiagnosis(
        component_id="pump", health=0.1 + 0.2, interval=(0.0, 1.0), state="watch", basis="labels",
        condition="1", confidence=0.75, degradation_rate=None, degradation_reason="short",
        rul_h=None, rul_interval_h=None, rul_reason="none", evidence=(),
    )  # fmt: skip
    return Diagnosis(
        diagnosis_id=diagnosis_id, equipment_id=equipment_id, created_at=created_at,
        window=Window(start=end - timedelta(seconds=60), end=end), model_version="1",
        topology_revision="r", fallback=False, input=InputQuality(
            source="store", missing_sensors=("PS1",), faulty_sensors=(), unusual_sensors=(),
            coverage=1.0, stale_s=0.5,
        ), status="ok", reasons=(), health=0.1 + 0.2, components=(component,),
    )  # fmt: skip


async def test_stored_diagnosis_is_returned_unchanged(store: Store):
    stored = diagnosis("d1", NOW)

    await store.insert_diagnoses([stored_row(stored)])

    body = await store.get_diagnosis("d1")
    assert body is not None
    assert body == stored.to_json()
    assert await store.get_diagnosis("d2") is None


async def test_storing_again_changes_nothing(store: Store):
    for pair in (
        [diagnosis("d1", NOW), diagnosis("d2", NOW)],
        [diagnosis("d2", NOW, equipment_id="other"), diagnosis("d3", NOW)],
    ):
        await store.insert_diagnoses([stored_row(item) for item in pair])
    await store.insert_diagnoses([])

    assert len(await store.diagnosis_history("rig", None, None, 10)) == 3
    assert await store.diagnosis_history("other", None, None, 10) == []


async def test_history_is_newest_first_within_the_interval_over_months(store: Store):
    ends = [NOW - timedelta(days=30 * age) for age in range(4)]
    await store.insert_diagnoses(
        [
            stored_row(diagnosis(f"d{age}", end, created_at=NOW - timedelta(days=40 * age)))
            for age, end in enumerate(ends)
        ]
    )

    async def ids(start: datetime | None, end: datetime | None, limit: int = 10) -> list[str]:
        bodies = await store.diagnosis_history("rig", start, end, limit)
        return [json.loads(body)["diagnosis_id"] for body in bodies]

    assert await ids(None, None) == ["d0", "d1", "d2", "d3"]
    assert await ids(None, None, 2) == ["d0", "d1"]
    assert await ids(ends[2], ends[0]) == ["d1", "d2"]


def answer(version: str = "2", day: datetime = NOW) -> ShadowAnswer:
    shadow = replace(diagnosis("d", NOW, day), model_version=version)
    return ShadowAnswer(shadow, "1", 0.25, 0.5)


async def rows(dsn: str) -> list[asyncpg.Record]:
    # on TimescaleDB the rows are behind a view, also for a superuser
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
    found = await session.fetch("select * from shadow_answers order by version")
    await session.close()
    return list(found)


async def test_answer_is_stored_once_beside_the_returned_diagnosis(store: Store, database_dsn: str):
    await store.insert_shadow_answers([answer("2"), answer("3")])
    await store.insert_shadow_answers([answer("2")])
    await store.insert_shadow_answers([])

    first, second = await rows(database_dsn)

    assert (first["version"], second["version"]) == ("2", "3")
    stored = answer().diagnosis
    assert dict(first) == {
        "diagnosis_id": "d",
        "created_at": NOW,
        "equipment_id": stored.equipment_id,
        "window_start": stored.window.start,
        "window_end": stored.window.end,
        "version": "2",
        "against": "1",
        "latency_s": 0.25,
        "against_latency_s": 0.5,
        "body": stored.to_json().decode(),
        "tenant": "default",
    }
    assert json.loads(first["body"])["model_version"] == "2"


async def test_shadow_answers_are_dropped_with_the_diagnoses_of_their_month(
    store: Store, database_dsn: str
):
    await store.insert_diagnoses([stored_row(diagnosis("d", NOW, NOW))])
    await store.insert_shadow_answers(
        [answer("2"), answer("3", datetime(2026, 5, 1, 12, tzinfo=UTC))]
    )

    await store.drop_before(datetime(2026, 4, 15, tzinfo=UTC))

    assert await store.get_diagnosis("d") is None
    assert [row["version"] for row in await rows(database_dsn)] == ["3"]
