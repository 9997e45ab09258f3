"""Waiting for traffic: every ingress replica has to say that it is in force."""

import httpx
import pytest

from app.core.errors import ReleaseError
from app.release.clients import service_api
from app.release.clients.service_api import ServiceApi
from app.schemas.releases import REPLICA_HEADER
from app.serving.ingress.traffic import Traffic

WANTED = {"1": 90.0, "2": 10.0}
BEFORE = {"1": 100.0, "2": 0.0}


class Replicas:
    """Replicas that answer in the order of `turns`; `behind` ones have the earlier weights."""

    def __init__(self, turns: str, behind: dict[str, int]) -> None:
        self.requests = 0
        self._turns = turns
        self._behind = behind

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/traffic":
            return httpx.Response(200, json={"reasons": []})
        name = self._turns[self.requests % len(self._turns)]
        self.requests += 1
        left = self._behind.get(name, 0)
        self._behind[name] = left - 1
        weights = BEFORE if left > 0 else WANTED
        releases = [{"version": version, "weight": weight} for version, weight in weights.items()]
        return httpx.Response(
            200, json={"releases": releases, "shadows": []}, headers={REPLICA_HEADER: name}
        )


def traffic() -> Traffic:
    releases = [
        {"version": version, "weight": weight, "application": f"model-{version}"}
        for version, weight in WANTED.items()
    ]
    return Traffic.model_validate({"releases": releases})


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_api, "POLL_S", 0.0)


async def test_traffic_is_in_force_once_every_replica_has_said_so() -> None:
    replicas = Replicas("aaaaaaaaaaaab", {"b": 2})
    async with ServiceApi("http://service", "key", httpx.MockTransport(replicas)) as api:
        await api.wait_traffic(traffic(), 2, 60.0)
    assert replicas.requests == 3 * 13


async def test_replica_that_stays_behind_is_an_error_with_what_it_has() -> None:
    replicas = Replicas("ab", {"b": 10**9})
    async with ServiceApi("http://service", "key", httpx.MockTransport(replicas)) as api:
        with pytest.raises(ReleaseError, match=r"in 2 ingress replica.* found it in 1 and at last"):
            await api.wait_traffic(traffic(), 2, 0.2)
