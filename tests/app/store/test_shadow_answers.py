"""Diagnoses of shadow versions in the database."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg

from app.store.shadow_answers import ShadowAnswer
from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.rows import stored_row

DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def answer(version: str = "2", day: datetime = DAY) -> ShadowAnswer:
    shadow = replace(diagnosis("d", DAY, day), model_version=version)
    return ShadowAnswer(shadow, "1", 0.25, 0.5)


async def rows(dsn: str) -> list[asyncpg.Record]:
    session = await asyncpg.connect(dsn)
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
        "created_at": DAY,
        "equipment_id": stored.equipment_id,
        "window_start": stored.window.start,
        "window_end": stored.window.end,
        "version": "2",
        "against": "1",
        "latency_s": 0.25,
        "against_latency_s": 0.5,
        "body": stored.to_json().decode(),
    }
    assert json.loads(first["body"])["model_version"] == "2"


async def test_shadow_answers_are_dropped_with_the_diagnoses_of_their_month(
    store: Store, database_dsn: str
):
    await store.insert_diagnoses([stored_row(diagnosis("d", DAY, DAY))])
    await store.insert_shadow_answers(
        [answer("2"), answer("3", datetime(2026, 5, 1, 12, tzinfo=UTC))]
    )

    await store.drop_before(datetime(2026, 4, 15, tzinfo=UTC))

    assert await store.get_diagnosis("d") is None
    assert [row["version"] for row in await rows(database_dsn)] == ["3"]
