from datetime import datetime, timedelta

from app.schemas.equipment import Equipment
from app.store.experiments import BEGINNING, KnownTruth, PairRow
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.shadow_rows import (
    MINUTE,
    START,
    ComponentPrediction,
    diagnosis,
    put_pairs,
    put_shadow_answers,
)

END = START + timedelta(days=100)


def us(at: datetime) -> int:
    return (at - BEGINNING) // timedelta(microseconds=1)


async def read(
    store: Store, a: str, b: str, start: datetime = START, end: datetime = END, most: int = 100
) -> list[PairRow]:
    return [
        row async for page in store.answer_pairs().pages(a, b, start, end, most) for row in page
    ]


async def test_pair_has_both_answers_whichever_was_returned(store: Store, database_dsn: str):
    await put_pairs(
        database_dsn,
        store,
        [diagnosis(1, "3", ComponentPrediction("0"))],
        [diagnosis(1, "4", ComponentPrediction("2", 0.25, "critical"))],
    )
    await put_pairs(
        database_dsn,
        store,
        [diagnosis(2, "4", ComponentPrediction("1", 0.5))],
        [diagnosis(2, "3", ComponentPrediction(None, None))],
    )

    newer, older = await read(store, "3", "4")

    assert [item.condition for (item,) in older.predictions] == ["0", "2"]
    assert [item.health for (item,) in older.predictions] == [0.9, 0.25]
    assert [item.condition for (item,) in newer.predictions] == [None, "1"]
    assert (older.abstained, newer.abstained) == ((False, False), (True, False))
    assert [round(each, 3) for each in older.latency_s] == [0.02, 0.03]
    assert [round(each, 3) for each in newer.latency_s] == [0.03, 0.02]
    assert (older.start_us, older.end_us) == (us(START), us(START + MINUTE))
    assert [row.predictions[::-1] for row in await read(store, "4", "3")] == [
        newer.predictions,
        older.predictions,
    ]


async def test_pages_go_back_in_time_over_months_without_a_gap(
    store: Store, database_dsn: str, monkeypatch
):
    monkeypatch.setattr("app.store.experiments.PAGE", 3)
    # several answers of the same time, on both sides of a page limit and of a month
    moments = [START + timedelta(days=12 * (number // 4)) for number in range(20)]
    returned = [
        diagnosis(number, "3", ComponentPrediction("0"), created_at=at)
        for number, at in enumerate(moments)
    ]
    await put_pairs(
        database_dsn,
        store,
        returned,
        [diagnosis(number, "4", ComponentPrediction("0")) for number in range(20)],
    )

    found = [row.diagnosis_id for row in await read(store, "3", "4")]

    assert found == [f"{number:032x}" for number in reversed(range(20))]
    assert [row.diagnosis_id for row in await read(store, "3", "4", most=7)] == found[:7]
    inner = await read(store, "3", "4", moments[4], moments[8])
    assert [row.diagnosis_id for row in inner] == [f"{number:032x}" for number in (7, 6, 5, 4)]


async def test_shadow_answer_without_a_stored_diagnosis_is_skipped(
    store: Store, database_dsn: str, monkeypatch
):
    monkeypatch.setattr("app.store.experiments.PAGE", 2)
    await put_pairs(
        database_dsn,
        store,
        [diagnosis(1, "3", ComponentPrediction("0"))],
        [diagnosis(1, "4", ComponentPrediction("0"))],
    )
    lost = [diagnosis(number, "3", ComponentPrediction("0")) for number in (2, 3)]
    await put_shadow_answers(
        database_dsn, lost, [diagnosis(number, "4", ComponentPrediction("0")) for number in (2, 3)]
    )

    assert [row.diagnosis_id for row in await read(store, "3", "4")] == [f"{1:032x}"]


async def test_label_counts_when_it_covers_the_whole_window_and_is_stable(
    store: Store, database_dsn: str, machine: Equipment
):
    await store.put_equipment(machine)
    numbers = range(1, 8)
    ids = {"equipment_id": machine.equipment_id}
    await put_pairs(
        database_dsn,
        store,
        [diagnosis(number, "3", ComponentPrediction("0"), **ids) for number in numbers],
        [diagnosis(number, "4", ComponentPrediction("0"), **ids) for number in numbers],
    )
    half_us = us(MINUTE + BEGINNING) // 2
    at = [us(START + number * MINUTE) for number in range(9)]
    labels = [
        ConditionLabel("pump", at[0], at[2], "1"),  # windows 1 and 2
        ConditionLabel("pump", at[2], at[3] - half_us, "2"),  # the first half of window 3
        ConditionLabel("pump", at[3], at[4], "2", stable=False),
        ConditionLabel("pump", at[4], at[5], health=0.25),
        ConditionLabel("pump", at[5], at[6], run_to_failure=True),
        ConditionLabel("cooler", at[6], at[7], "1"),  # a component that the answers do not have
    ]
    await store.put_labels(machine.equipment_id, labels)

    found = {int(row.diagnosis_id, 16): row.truths for row in await read(store, "3", "4")}

    assert found[1] == found[2] == (KnownTruth("pump", "1", None),)
    assert found[5] == (KnownTruth("pump", None, 0.25),)
    assert [found[number] for number in (3, 4, 6, 7)] == [()] * 4


async def test_versions_that_share_answers_in_an_interval_are_listed(
    store: Store, database_dsn: str
):
    assert await store.answer_pairs().versions(START, END) == []
    for number, (version, against) in enumerate([("4", "3"), ("3", "4"), ("5", "3"), ("4", "3")]):
        at = START + timedelta(days=40 * number)
        returned = [diagnosis(number, against, ComponentPrediction("0"), created_at=at)]
        await put_pairs(
            database_dsn, store, returned, [diagnosis(number, version, ComponentPrediction("0"))]
        )

    pairs = store.answer_pairs()
    assert await pairs.versions(START, START + timedelta(days=365)) == [
        ("3", "4"),
        ("4", "3"),
        ("5", "3"),
    ]
    assert await pairs.versions(START + timedelta(days=1), START + timedelta(days=90)) == [
        ("3", "4"),
        ("5", "3"),
    ]
