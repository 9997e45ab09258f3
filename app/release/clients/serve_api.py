"""A client of Ray Serve's REST interface on the dashboard: applies configurations, reports states.

It uses HTTP and does not import Ray, which takes seconds. Tokens are read where Ray's own commands
read them.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, Field, ValidationError
from tenacity import wait_random
from tenacity.wait import wait_base

from app.core.errors import ReleaseError

APPLICATIONS = "/api/serve/applications/"
TIMEOUT_S = 30.0
POLL_S = 0.1
_MESSAGE_CHARACTERS = 600


class TokenRefused(ReleaseError):
    """The dashboard does not accept the token; waiting does not help."""


class ReplicaState(BaseModel, frozen=True):
    """A replica as Serve reports it."""

    state: str


class DeploymentState(BaseModel, frozen=True):
    """A deployment as Serve reports it."""

    message: str = ""
    replicas: tuple[ReplicaState, ...] = ()

    @property
    def running(self) -> int:
        """How many replicas run."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)


class ApplicationState(BaseModel, frozen=True):
    """An application as Serve reports it; `deployed_app_config` was applied last."""

    status: str
    message: str = ""
    deployments: Mapping[str, DeploymentState] = Field(default_factory=dict)
    deployed_app_config: Mapping[str, Any] | None = None

    @property
    def replicas(self) -> int:
        """How many replicas of all deployments run."""
        return sum(item.running for item in self.deployments.values())

    @property
    def failure(self) -> str | None:
        """Why it does not run, or None while it may still start."""
        messages = [item.message for item in self.deployments.values()]
        if self.status == "DEPLOY_FAILED":
            messages = [self.message, *messages]
        else:
            messages = [message for message in messages if "failed to start" in message]
            if not messages:
                return None
        return _cause(" ".join(filter(None, messages)))


class ServeApi:
    """A client of the dashboard; methods raise ReleaseError when it does not answer as expected.

    Args:
        address: The dashboard, `http://host:port`.
        token: Ray's token, or None without authentication.
        transport: Replaces the network in tests.
    """

    in_force_s = 10.0
    """Time limit until a change is in force."""
    outage_s = 10.0
    """How long reads of the file, or measurements, may fail during a promotion."""
    retry_wait: wait_base = wait_random(0.02, 0.08)
    """Seconds between two attempts to get the file; random: two commands must not collide."""

    def __init__(
        self, address: str, token: str | None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._address = address
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(
            base_url=address, headers=headers, timeout=TIMEOUT_S, transport=transport
        )

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def apply(self, config: object) -> None:
        """Apply a whole configuration; returns when Serve accepted it, before it is in force."""
        await self._send("PUT", config)

    async def applications(self) -> dict[str, ApplicationState]:
        """Return the state of every application."""
        answer = await self._send("GET")
        try:
            given = answer.json()["applications"]
            return {name: ApplicationState.model_validate(item) for name, item in given.items()}
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise ReleaseError(
                f"expected Serve's applications from {self._address}, found something else: is it "
                "Ray's dashboard?"
            ) from error

    async def wait_running(self, name: str, timeout_s: float) -> ApplicationState:
        """Wait until an application runs; failing or not running in time is a ReleaseError."""
        deadline = time.monotonic() + timeout_s
        while True:
            state = (await self.applications()).get(name)
            if state is not None:
                if state.status == "RUNNING":
                    return state
                if (failure := state.failure) is not None:
                    raise ReleaseError(f"expected application '{name}' to start, found: {failure}")
            if time.monotonic() > deadline:
                found = "no such application" if state is None else state.status
                raise ReleaseError(
                    f"expected application '{name}' to run within {timeout_s:g} s, found {found}"
                )
            await asyncio.sleep(POLL_S)

    async def wait_gone(self, name: str, timeout_s: float) -> None:
        """Wait until an application was removed; it still existing is a ReleaseError."""
        deadline = time.monotonic() + timeout_s
        while (state := (await self.applications()).get(name)) is not None:
            if time.monotonic() > deadline:
                raise ReleaseError(
                    f"expected application '{name}' to be removed within {timeout_s:g} s, found "
                    f"{state.status}"
                )
            await asyncio.sleep(POLL_S)

    async def describe(self) -> list[str]:
        """Return nothing: `applications` says all."""
        return []

    async def _send(self, method: str, body: object = None) -> httpx.Response:
        try:
            answer = await self._client.request(method, APPLICATIONS, json=body)
        except httpx.HTTPError as error:
            raise ReleaseError(
                f"expected Ray's dashboard at {self._address}, found no answer: start the service, "
                "or correct this address"
            ) from error
        if answer.status_code in {401, 403}:
            raise TokenRefused(
                f"expected {self._address} to accept Ray's token, found status "
                f"{answer.status_code}: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file"
            )
        if answer.status_code != httpx.codes.OK:
            raise ReleaseError(
                f"expected Serve to accept the configuration, found status {answer.status_code}: "
                f"{_cause(answer.text)}"
            )
        return answer


def ray_token(environment: Mapping[str, str], home: Path) -> str | None:
    """Return the token of Ray's control plane, read where Ray reads it, or None without one.

    Raises:
        ReleaseError: The file of RAY_AUTH_TOKEN_PATH cannot be read.
    """
    if (given := environment.get("RAY_AUTH_TOKEN", "").strip()) != "":
        return given
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else home / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        if named:
            raise ReleaseError(
                f"expected Ray's token in RAY_AUTH_TOKEN_PATH, found: {error.strerror}"
            ) from error
        return None


def dashboard_address(given: str | None) -> str:
    """Return the dashboard's address: as given, else the environment's, else Ray's default."""
    return given or os.environ.get("RAY_DASHBOARD_ADDRESS") or "http://127.0.0.1:8265"


def _cause(text: str) -> str:
    """Return the end of a message of Ray, which holds the cause; a trace precedes it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if "Error: " in line or "Exception: " in line]
    cause = causes[-1] if causes else " ".join(lines)
    return cause if len(cause) <= _MESSAGE_CHARACTERS else f"...{cause[-_MESSAGE_CHARACTERS:]}"
