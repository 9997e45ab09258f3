"""The running service as its callers see it: which weights are in force, whether a version answers, what its metrics say.

Invariant: only answers count; a version is warm when it has answered diagnoses, not when somebody says that it runs.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

import httpx
from pydantic import ValidationError

from app.core.errors import ReleaseError
from app.core.settings import Settings
from app.release.config.schema import ServeConfig
from app.release.ledger import told
from app.release.warm_up import warm_up_request
from app.schemas.equipment import Equipment
from app.serving.ingress.traffic import Traffic
from app.store.first_key import FILE_NAME

TIMEOUT_S = 30.0
POLL_S = 0.05
PASSING = frozenset({429, 502, 503, 504})
"""Statuses of a service that may answer in a moment."""


class ServiceApi:
    """A client of the service.

    Args:
        url: of the service.
        key: an API key with the scopes read and diagnose.
        transport: another way to send requests than the network.
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
        """Close its connections."""
        await self._client.aclose()

    async def weights(self) -> dict[str, float]:
        """Return the weights in force, as one ingress replica tells them.

        Raises:
            ReleaseError: the service does not answer.
        """
        answer = await self._expect("GET", "/v1/traffic")
        return {release["version"]: release["weight"] for release in answer.json()["releases"]}

    async def wait_traffic(self, wanted: Traffic, replicas: int, within_s: float) -> None:
        """Wait until every ingress replica has weights and shadows in force.

        Args:
            wanted: as the file says it.
            replicas: of the ingress; each question goes over a connection of its own, to whichever answers.
            within_s: before giving up.

        Raises:
            ReleaseError: they are not in force in time, or the ingress refused them.
        """
        weights = {release.version: release.weight for release in wanted.releases}
        give_up = time.monotonic() + within_s
        agreed = 0
        needed = 1 if replicas <= 1 else 4 * replicas
        headers = {} if replicas <= 1 else {"connection": "close"}
        while agreed < needed:
            answer = (await self._expect("GET", "/v1/traffic", headers=headers)).json()
            found = {release["version"]: release["weight"] for release in answer["releases"]}
            shadows = tuple(answer.get("shadows", ()))
            agreed = agreed + 1 if (found, shadows) == (weights, wanted.shadows) else 0
            if not agreed:
                if time.monotonic() > give_up:
                    raise ReleaseError(
                        f"expected {told(weights, wanted.shadows)} in force within {within_s:g} s, found "
                        f"{told(found, shadows)}{await self._refusal()}"
                    )
                await asyncio.sleep(POLL_S)

    async def warm_up(
        self, version: str, designs: tuple[str, ...], times: int, within_s: float
    ) -> str:
        """Have a version answer real diagnoses over HTTP, one after the other.

        Args:
            version: released, with any weight.
            designs: that it was trained on; a registered machine of one of them lends its topology; any when empty.
            times: how many diagnoses.
            within_s: before giving up.

        Returns:
            What answered, in words.

        Raises:
            ReleaseError: it did not answer in time, or another version stood in.
        """
        equipment = await self._machine_of(designs)
        give_up = time.monotonic() + within_s
        answered, slowest_s, last = 0, 0.0, "nothing"
        while answered < times:
            body = warm_up_request(equipment, version, datetime.now(UTC), answered)
            started = time.monotonic()
            answer = await self._send("POST", "/v1/diagnoses", json=body)
            if answer.status_code == httpx.codes.OK:
                found = answer.json()
                if (found["model_version"], found["fallback"]) != (version, False):
                    raise ReleaseError(
                        f"expected version {version} to answer, found version {found['model_version']} in its place"
                    )
                answered += 1
                slowest_s = max(slowest_s, time.monotonic() - started)
                continue
            last = _problem_of(answer)
            passing = answer.status_code in PASSING or answer.status_code == httpx.codes.NOT_FOUND
            if not passing or time.monotonic() > give_up:
                raise ReleaseError(
                    f"expected version {version} to answer a warm-up diagnosis, found: {last}"
                )
            await asyncio.sleep(POLL_S)
        return f"version {version} answered {times} warm-up diagnoses of a '{equipment.design}', the slowest in {slowest_s:.3f} s"

    async def metrics(self) -> str:
        """Return the metrics of one ingress replica in the Prometheus text format.

        Raises:
            ReleaseError: the service does not answer.
        """
        return (await self._expect("GET", "/metrics", headers={"connection": "close"})).text

    async def _machine_of(self, designs: tuple[str, ...]) -> Equipment:
        listed: list[dict[str, Any]] = (await self._expect("GET", "/v1/equipment")).json()[
            "equipment"
        ]
        known = [item for item in listed if item["design"] in designs or not designs]
        if not known:
            raise ReleaseError(
                f"expected a registered machine of a design that the version knows ({', '.join(designs) or 'any'}) for its warm-up, "
                "found none: register one with PUT /v1/equipment/{equipment_id}"
            )
        answer = await self._expect("GET", f"/v1/equipment/{known[0]['equipment_id']}")
        try:
            return Equipment.model_validate(answer.json())
        except ValidationError as error:
            raise ReleaseError(
                f"expected a topology from {self._url}, found something else: is it this service?"
            ) from error

    async def _refusal(self) -> str:
        answer = await self._send("GET", "/health/ready")
        reasons = [reason for reason in answer.json().get("reasons", ()) if "user_config" in reason]
        return f": {reasons[0]}" if reasons else ""

    async def _expect(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        answer = await self._send(method, path, headers=headers)
        if answer.status_code != httpx.codes.OK:
            raise ReleaseError(f"expected {method} {path} to answer, found: {_problem_of(answer)}")
        return answer

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return await self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise ReleaseError(
                f"expected the service at {self._url}, found {type(error).__name__}: start it, or name it with --url"
            ) from error


def service_url(config: ServeConfig) -> str:
    """Return where a configuration's service answers on this machine."""
    http = config.http_options
    host = "127.0.0.1" if http.host in {"0.0.0.0", "::", "localhost"} else http.host  # noqa: S104 - compared, not bound
    scheme = "https" if http.ssl_certfile else "http"
    return f"{scheme}://{host}:{http.port}{http.root_path}"


def api_key(settings: Settings) -> str:
    """Return a key to ask the service with: the environment's, else the one that a first start made.

    Raises:
        ReleaseError: there is none.
    """
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    path = settings.var_dir / FILE_NAME
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ReleaseError(
            f"expected an API key in '{path}' as the first start makes it, found: {error.strerror}; set HYDRAULIC_API_KEY"
        ) from error


def _problem_of(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        return f"status {answer.status_code}, {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
