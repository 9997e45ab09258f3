"""Comparisons read the diagnoses of shadows that serving stored."""

import asyncio
from datetime import datetime, timedelta

import httpx

from app.serving.ingress.deployment import Service
from app.serving.ingress.traffic import Traffic
from app.serving.ingress.version_router import VersionRouter
from app.store.experiments import BEGINNING
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.app.serving.conftest import split
from tests.app.serving.http.test_app import ready, rig_request
from tests.rig import inline_readings, rig_cycle

WINDOWS = 12
MICROSECOND = timedelta(microseconds=1)


async def test_answers_of_a_shadow_are_compared(
    client: httpx.AsyncClient, service: Service, store: Store, versions: VersionRouter
):
    await ready(client)
    versions.set_traffic(Traffic(releases=split(100, 0).releases, shadows=("2",)))
    labels = []
    for number in range(WINDOWS):
        start = datetime.fromisoformat("2026-01-01T00:00:00Z") + number * timedelta(minutes=1)
        values, grades = rig_cycle(300 + 40 * number)
        request = rig_request() | {"readings": inline_readings(values, start.isoformat())}
        assert (await client.post("/v1/diagnoses", json=request)).status_code == 200
        at = (start - BEGINNING) // MICROSECOND
        labels += [
            ConditionLabel(name, at, at + 60_000_000, grade) for name, grade in grades.items()
        ]
    await store.put_labels("hydraulic-rig", labels)

    async with asyncio.timeout(20):
        while (
            not (found := (await client.get("/v1/experiments")).json()["experiments"])
            or found[0]["windows"] < WINDOWS
        ):
            await asyncio.sleep(0.1)

    (experiment,) = found
    assert (experiment["a"], experiment["b"], experiment["windows"], experiment["complete"]) == (
        "1",
        "2",
        WINDOWS,
        True,
    )
    accuracies = [item["accuracy"] for item in experiment["components"] if item["accuracy"]]
    assert [each["windows"] for each in accuracies] == [WINDOWS] * 4
    assert experiment["latency_b"]["p50_s"] > 0
    assert experiment["sentence"]
