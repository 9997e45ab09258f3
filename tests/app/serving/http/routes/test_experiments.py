"""`GET /v1/experiments` over the real store."""

import httpx
import pytest

from app.experiments.report import Experiment, ExperimentList
from app.schemas.equipment import Equipment
from app.store.experiments import BEGINNING
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.shadow_rows import MINUTE, START, ComponentPrediction, diagnosis, put_pairs

WINDOWS = 60


@pytest.fixture
async def compared(store: Store, database_dsn: str, machine: Equipment) -> Equipment:
    """Equipment on whose windows version 10 answered and shadow 9 was wrong every second time.

    Each of these windows has a label. Version 11 answered two further windows, with 9 as shadow.
    """
    await store.put_equipment(machine)
    ids = {"equipment_id": machine.equipment_id}
    returned = [
        diagnosis(number, "10", ComponentPrediction("0"), **ids) for number in range(WINDOWS)
    ]
    shadow = [
        diagnosis(number, "9", ComponentPrediction("1" if number % 2 else "0"), **ids)
        for number in range(WINDOWS)
    ]
    await put_pairs(database_dsn, store, returned, shadow)
    labels = []
    for number in range(WINDOWS):
        end = START + number * MINUTE - BEGINNING
        labels.append(
            ConditionLabel("pump", (end - MINUTE) // MICROSECOND, end // MICROSECOND, "0")
        )
    await store.put_labels(machine.equipment_id, labels)
    later = range(WINDOWS, WINDOWS + 2)
    await put_pairs(
        database_dsn,
        store,
        [diagnosis(number, "11", ComponentPrediction("0"), **ids) for number in later],
        [diagnosis(number, "9", ComponentPrediction("0"), **ids) for number in later],
    )
    return machine


MICROSECOND = MINUTE / 60_000_000


async def get(client: httpx.AsyncClient, **query: str | int) -> ExperimentList:
    answer = await client.get("/v1/experiments", params=query)
    assert answer.status_code == 200, answer.text
    return ExperimentList.model_validate_json(answer.content)


async def test_versions_with_common_windows_are_listed_with_their_verdicts(
    client: httpx.AsyncClient, compared: Equipment
):
    first, second = (await get(client)).experiments

    assert (first.a, first.b, first.verdict) == ("9", "10", "better")
    assert first.sentence.startswith(
        "10 is better: pump right in 100.0% with 10 and in 50.0% with 9 of 60 labelled windows"
    )
    assert (first.windows, first.machines, first.complete, first.disagreement.count) == (
        60,
        1,
        True,
        30,
    )
    assert (first.latency_a.p50_s, first.latency_b.p50_s) == (0.03, 0.02)
    assert (second.a, second.b, second.verdict, second.windows) == ("9", "11", "unknown", 2)
    assert "no label" in second.sentence


async def test_two_named_versions_are_compared_or_the_way_to_it_is_named(
    client: httpx.AsyncClient, compared: Equipment
):
    query = {"baseline": "9", "candidate": "10"}
    answer = await client.get("/v1/experiments/compare", params=query)
    assert answer.status_code == 200, answer.text
    assert (
        Experiment.model_validate_json(answer.content) == (await get(client, a="9")).experiments[0]
    )
    answer = await client.get("/v1/experiments/compare", params=query | {"candidate": "12"})
    assert (answer.status_code, "POST /v1/models/12/shadow" in answer.json()["detail"]) == (
        404,
        True,
    )
    answer = await client.get("/v1/experiments/compare", params=query | {"candidate": "9"})
    assert (answer.status_code, answer.json()["field"]) == (422, "candidate")


async def test_parameters_select_versions_and_interval(
    client: httpx.AsyncClient, compared: Equipment
):
    (turned,) = (await get(client, a="10", b="9")).experiments
    assert (turned.a, turned.b, turned.verdict) == ("10", "9", "worse")
    assert [(each.a, each.b) for each in (await get(client, b="9")).experiments] == [
        ("10", "9"),
        ("11", "9"),
    ]
    assert (await get(client, a="10", b="11")).experiments == ()

    (some,) = (await get(client, a="9", b="10", end=(START + 10 * MINUTE).isoformat())).experiments
    assert (some.windows, some.end) == (10, START + 9 * MINUTE)
    (newest,) = (await get(client, a="9", b="10", limit=7)).experiments
    assert (newest.windows, newest.complete, newest.start) == (
        7,
        False,
        START + (WINDOWS - 7) * MINUTE,
    )
    (exactly,) = (await get(client, a="9", b="10", limit=WINDOWS)).experiments
    assert exactly.complete


async def test_versions_share_the_limit_of_one_request(
    client: httpx.AsyncClient, compared: Equipment, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("app.experiments.reading.MAX_ANSWERS", 20)
    first, second = (await get(client)).experiments
    assert [(each.windows, each.complete) for each in (first, second)] == [(10, False), (2, True)]
    (alone,) = (await get(client, a="9", b="10")).experiments
    assert alone.windows == 20


async def test_no_comparison_is_an_empty_list(client: httpx.AsyncClient):
    assert (await get(client)).experiments == ()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"a": "9", "b": "9"}, "b"),
        ({"a": "../9"}, "a"),
        ({"start": "5"}, "start"),
        ({"start": "2026-03-02T00:00:00Z", "end": "2026-03-01T00:00:00Z"}, "start"),
        ({"limit": "20001"}, "limit"),
    ],
)
async def test_wrong_parameter_is_a_problem_that_names_the_field(
    client: httpx.AsyncClient, query: dict[str, str], field: str
):
    answer = await client.get("/v1/experiments", params=query)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_key_with_the_scope_read_is_required(client: httpx.AsyncClient, store: Store):
    other = (await store.create_key("other", ["diagnose"])).secret
    answer = await client.get("/v1/experiments", headers={"authorization": f"Bearer {other}"})
    assert answer.status_code == 403
    assert (await client.get("/v1/experiments", headers={"authorization": ""})).status_code == 401


async def test_openapi_document_describes_the_answer(client: httpx.AsyncClient):
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/experiments"]["get"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "/ExperimentList"
    )
    assert "sentence" in document["components"]["schemas"]["Experiment"]["properties"]
