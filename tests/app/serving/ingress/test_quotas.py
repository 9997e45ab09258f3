"""What is beyond a quota is refused, and what is there stays."""

import httpx
import pytest

from app.core.errors import QuotaExceeded
from app.demo.rig.equipment import rig_equipment
from app.serving.ingress.deployment import Service
from app.serving.ingress.quotas import QuotaConfig, Quotas
from app.store.store import Store
from tests.app.serving.http.test_app import ready


async def test_one_machine_too_many_is_refused_and_a_known_one_may_change(
    client: httpx.AsyncClient, service: Service
):
    await ready(client)
    service.quotas.set_quotas(QuotaConfig(equipment=1))
    topology = rig_equipment().model_dump(mode="json", exclude_none=True)
    other = topology | {"equipment_id": "other"}
    refused = await client.put("/v1/equipment/other", json=other)
    assert (refused.status_code, refused.json()["type"][-5:]) == (409, "quota")
    assert "expected at most 1 registered machines, found 1" in refused.json()["detail"]
    changed = await client.put("/v1/equipment/hydraulic-rig", json=topology)
    assert changed.status_code == 200


async def test_one_key_too_many_is_refused(client: httpx.AsyncClient, service: Service):
    service.quotas.set_quotas(QuotaConfig(keys=2))
    orders = [{"name": name, "scopes": ["read"]} for name in ("one", "two")]
    answers = [await client.post("/v1/keys", json=order) for order in orders]
    assert [each.status_code for each in answers] == [201, 409]


async def test_key_is_rotated_at_the_quota(client: httpx.AsyncClient, service: Service):
    service.quotas.set_quotas(QuotaConfig(keys=2))
    created = await client.post("/v1/keys", json={"name": "one", "scopes": ["read"]})
    rotated = await client.post("/v1/keys/one/rotate")
    assert (created.status_code, rotated.status_code) == (201, 200)
    assert rotated.json()["key"] != created.json()["key"]


async def test_replaced_interval_counts_as_readings(client: httpx.AsyncClient, service: Service):
    await ready(client)
    service.quotas.set_quotas(QuotaConfig(readings=100))
    service.quotas._readings = 100
    refused = await client.put(
        "/v1/equipment/hydraulic-rig/readings",
        params={"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T01:00:00Z"},
        json=[],
    )
    assert (refused.status_code, refused.json()["type"][-5:]) == (409, "quota")


async def test_readings_are_refused_once_as_many_are_estimated(store: Store):
    quotas = Quotas(store)
    await quotas.estimate()
    quotas.check_readings()
    quotas.set_quotas(QuotaConfig(readings=100))
    quotas.check_readings()
    quotas._readings = 100
    with pytest.raises(QuotaExceeded, match="expected at most 100 stored readings, found 100"):
        quotas.check_readings()
