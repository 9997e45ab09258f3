"""Bodies of batches are parsed item by item, in turns with other requests."""

import asyncio
import json

import pytest

from app.core.errors import InputError, LimitExceeded
from app.schemas.diagnosis import MAX_BATCH_ITEMS, DiagnosisRequest
from app.serving.http.routes import diagnoses
from app.serving.http.routes.diagnoses import parse_batch


@pytest.mark.parametrize("indent", [None, 2])
async def test_items_are_parsed_and_an_invalid_one_becomes_its_error(indent: int | None) -> None:
    items = [{"equipment_id": "a"}, 7, {"equipment_id": "b", "explain": "x"}]
    found = await parse_batch(json.dumps({"items": items}, indent=indent).encode())
    assert isinstance(found[0], DiagnosisRequest)
    assert [isinstance(each, Exception) for each in found] == [False, True, True]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "with a list `items` and nothing else, found '' at character 0"),
        (b"[]", r"with a list `items` and nothing else, found '\[\]' at character 0"),
        (b'{"items": 3}', "nothing else, found '{"),
        (b'{"items": []}', "at least one item, found an empty list"),
        (b'{"items": [{}', "text that does not parse: `,` or `]}` missing at character 13"),
        (b'{"items": [{}]', "`,` or `]}` missing at character 13"),
        (b'{"items": [{}], "more": 1}', "nothing else, found ', \"more\": 1}' at character 14"),
        (b'{"items": [{},]}', "does not parse: Expecting value"),
        (b'{"items": [{} {}]}', "`,` or `]}` missing at character 13"),
        (
            b'{"items": [{"equipment_id": "\xff"}]}',
            "JSON in UTF-8, found other bytes at position 29",
        ),
        (b'{"items": [' + b"[" * 100_000, "found deeper nesting after character 11"),
    ],
)
async def test_body_that_is_no_batch_is_refused_with_what_was_found(
    body: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        await parse_batch(body)


async def test_items_above_the_most_are_refused() -> None:
    body = b'{"items":[' + b",".join([b'{"equipment_id":"a"}'] * (MAX_BATCH_ITEMS + 1)) + b"]}"
    with pytest.raises(LimitExceeded, match=f"at most {MAX_BATCH_ITEMS} items, found more"):
        await parse_batch(body)


async def test_others_get_turns_while_items_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnoses, "TURN_S", 0.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    found = await parse_batch(b'{"items":[' + b",".join([b'{"equipment_id":"a"}'] * 40) + b"]}")
    other.cancel()
    assert len(found) == 40
    assert turns >= 40
