"""Pages of a machine's stored diagnoses."""

from datetime import UTC, datetime, timedelta

import httpx

from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.machines import make_machine
from tests.rows import stored_row

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PATH = "/v1/equipment/press-1/diagnoses"


async def insert(store: Store, *rows: tuple[int, int]) -> None:
    """Store diagnoses by (number of the id, minutes after noon), made in the order of ids."""
    await store.insert_diagnoses(
        [
            stored_row(
                diagnosis(
                    f"{number:032x}",
                    NOON + timedelta(minutes=minute),
                    NOON + timedelta(seconds=number),
                    "press-1",
                )
            )
            for number, minute in rows
        ]
    )


async def test_pages_neither_skip_nor_repeat_diagnoses_that_share_an_end(
    client: httpx.AsyncClient, store: Store
):
    await store.put_equipment(make_machine())
    await insert(store, *((number, number // 5) for number in range(12)))
    seen: list[int] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(PATH, params=params)).json()
        seen += [int(item["diagnosis_id"], 16) for item in page["diagnoses"]]
        if len(seen) == 4:
            # newer windows, and one of an end that the pages have passed, do not move the rest
            await insert(store, (100, 2), (101, 9))
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


async def test_bad_cursor_is_a_problem_with_advice(client: httpx.AsyncClient, store: Store):
    await store.put_equipment(make_machine())
    for bad in ("nonsense", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsIlx1MDAwMCJd", "W10"):
        answer = await client.get(PATH, params={"cursor": bad})
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
        assert "leave `cursor` out" in answer.json()["detail"]
