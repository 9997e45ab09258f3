"""A client of the running service: traffic in force, warm-up diagnoses, metrics.

Invariant: a version counts as warm when it answered diagnoses, not when Serve reports it running.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import httpx
from pydantic import ValidationError

from app.core.errors import ReleaseError
from app.core.settings import Settings
from app.release.config.schema import ServeConfig
from app.release.config.weights import Split, format_split
from app.schemas.equipment import Equipment
from app.schemas.releases import REPLICA_HEADER
from app.serving.ingress.traffic import Traffic
from app.store.keys import FIRST_KEY_FILE

TIMEOUT_S = 30.0
POLL_S = 0.05
WARM_UP_ID = "release-warm-up"
"""Equipment id of warm-up diagnoses, so that they appear in no machine's history."""
_TRANSIENT = frozenset({404, 429, 502, 503, 504})
"""Statuses of a service that may answer a moment later; 404 until the version is known."""
_WAVE_AMPLITUDE = 0.05  # share of the sensor's range
_WAVE_BINS = 7.0  # bins per radian


class ServiceApi:
    """A client of the service; methods raise ReleaseError when it does not answer as expected.

    Args:
        url: Base URL of the service.
        key: API key with the scopes read and diagnose.
        transport: Replaces the network in tests.
    """

    def __init__(
        self, url: str, key: str, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url
        headers = {"authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=TIMEOUT_S, transport=transport
        )

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def split(self) -> Split:
        """Return the weights in force in one ingress replica."""
        return _split_of((await self._get("/v1/traffic")).json())

    async def wait_traffic(self, wanted: Traffic, replicas: int, timeout_s: float) -> None:
        """Wait until every ingress replica has weights and shadows in force.

        Args:
            wanted: As configured in the file.
            replicas: Number of ingress replicas; with several, each request uses a connection of
                its own until all of them have answered.
            timeout_s: Time limit.

        Raises:
            ReleaseError: They are not in force in time, or the ingress refused them.
        """
        split = Split.of(wanted)
        deadline = time.monotonic() + timeout_s
        headers = {} if replicas <= 1 else {"connection": "close"}
        agreed: set[str] = set()
        while len(agreed) < replicas:
            response = await self._get("/v1/traffic", headers=headers)
            answer = response.json()
            found, shadows = _split_of(answer), tuple(answer.get("shadows", ()))
            replica = response.headers.get(REPLICA_HEADER, "")
            if (found, shadows) == (split, wanted.shadows) and replica not in agreed:
                agreed.add(replica)
                continue
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"expected {format_split(split, wanted.shadows)} in force in {replicas} "
                    f"ingress replica(s) within {timeout_s:g} s, found it in {len(agreed)} and at "
                    f"last {format_split(found, shadows)}{await self._config_error()}"
                )
            await asyncio.sleep(POLL_S)

    async def warm_up(
        self, version: str, designs: tuple[str, ...], count: int, timeout_s: float
    ) -> str:
        """Request real diagnoses of a version over HTTP, one after the other.

        Args:
            version: A released version, with any weight.
            designs: Designs of its training data; the topology is that of a registered machine of
                one of them, or of any machine when empty.
            count: Number of diagnoses.
            timeout_s: Time limit.

        Returns:
            A sentence about the answers.

        Raises:
            ReleaseError: The version did not answer in time, or another version answered.
        """
        equipment = await self._machine_of(designs)
        deadline = time.monotonic() + timeout_s
        answered, slowest_s = 0, 0.0
        while answered < count:
            body = warm_up_request(equipment, version, datetime.now(UTC), answered)
            started = time.monotonic()
            answer = await self._send("POST", "/v1/diagnoses", json=body)
            if answer.status_code == httpx.codes.OK:
                found = answer.json()
                if (found["model_version"], found["fallback"]) != (version, False):
                    raise ReleaseError(
                        f"expected version {version} to answer, found version "
                        f"{found['model_version']} in its place"
                    )
                answered += 1
                slowest_s = max(slowest_s, time.monotonic() - started)
                continue
            if answer.status_code not in _TRANSIENT or time.monotonic() > deadline:
                raise ReleaseError(
                    f"expected version {version} to answer a warm-up diagnosis, found: "
                    f"{_problem_of(answer)}"
                )
            await asyncio.sleep(POLL_S)
        return (
            f"version {version} answered {count} warm-up diagnoses of a '{equipment.design}', the "
            f"slowest in {slowest_s:.3f} s"
        )

    async def metrics(self) -> str:
        """Return the metrics of all replicas in the Prometheus text format."""
        return (await self._get("/metrics")).text

    async def _machine_of(self, designs: tuple[str, ...]) -> Equipment:
        listed: list[dict[str, Any]] = (await self._get("/v1/equipment")).json()["equipment"]
        known = [item for item in listed if item["design"] in designs or not designs]
        if not known:
            raise ReleaseError(
                "expected a registered machine of a design that the version was trained on "
                f"({', '.join(designs) or 'any'}) for its warm-up, found none: register one with "
                "PUT /v1/equipment/{equipment_id}"
            )
        answer = await self._get(f"/v1/equipment/{known[0]['equipment_id']}")
        try:
            return Equipment.model_validate(answer.json())
        except ValidationError as error:
            raise ReleaseError(
                f"expected a topology from {self._url}, found something else: is it this service?"
            ) from error

    async def _config_error(self) -> str:
        answer = await self._send("GET", "/health/ready")
        reasons = [reason for reason in answer.json().get("reasons", ()) if "user_config" in reason]
        return f": {reasons[0]}" if reasons else ""

    async def _get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        answer = await self._send("GET", path, headers=headers)
        if answer.status_code != httpx.codes.OK:
            raise ReleaseError(f"expected GET {path} to answer, found: {_problem_of(answer)}")
        return answer

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return await self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ReleaseError(
                f"expected the service at {self._url}, found no answer: start it, or correct this "
                "address"
            ) from error


def warm_up_request(
    equipment: Equipment, version: str, now: datetime, number: int
) -> Mapping[str, Any]:
    """Return the body of a diagnosis request with readings of its own.

    Args:
        equipment: A registered machine.
        version: The version that must answer.
        now: Current time, UTC.
        number: Number of the request; each has other readings.
    """
    start = now - timedelta(seconds=equipment.window_s + 60)
    return {
        "equipment_id": WARM_UP_ID,
        "model_version": version,
        "equipment": equipment.model_dump(mode="json", exclude={"equipment_id"}),
        "readings": {
            "start": start.isoformat(),
            "step_s": equipment.grid_s,
            "values": {
                placed.sensor.sensor_id: wave(*placed.sensor.range, equipment.bins, place + number)
                for place, placed in enumerate(equipment.sensors)
            },
        },
    }


def wave(low: float, high: float, bins: int, phase: float) -> list[float]:
    """Return readings that swing around the middle of a sensor's range.

    Args:
        low: Lower end of the range, in the sensor's unit.
        high: Upper end.
        bins: Number of readings.
        phase: Start of the wave, in radians.
    """
    middle, amplitude = (low + high) / 2.0, _WAVE_AMPLITUDE * (high - low)
    return [round(middle + amplitude * math.sin(phase + n / _WAVE_BINS), 6) for n in range(bins)]


def service_url(config: ServeConfig) -> str:
    """Return the service's base URL on this machine."""
    http = config.http_options
    is_local = http.host in {"0.0.0.0", "::", "localhost"}  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if is_local else http.host
    scheme = "https" if http.ssl_certfile else "http"
    return f"{scheme}://{host}:{http.port}{http.root_path}"


def api_key(settings: Settings) -> str:
    """Return an API key: the environment's, else the one that the first start created.

    Raises:
        ReleaseError: There is none.
    """
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    path = settings.var_dir / FIRST_KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ReleaseError(
            f"expected an API key in '{path}' as the first start creates it, found: "
            f"{error.strerror}; set HYDRAULIC_API_KEY"
        ) from error


def _split_of(report: Mapping[str, Any]) -> Split:
    weights = {release["version"]: release["weight"] for release in report["releases"]}
    return Split(weights, report.get("designs", {}))


def _problem_of(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        return f"status {answer.status_code}, {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
