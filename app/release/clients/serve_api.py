"""Ray Serve's own interface on the dashboard: applies a configuration, and tells what became of it.

It speaks HTTP and imports no Ray, which takes seconds. Tokens are found where Ray's own commands find them.
Invariant: an answer that is not the expected one is an error that says so; nothing is applied in parts.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.core.errors import ReleaseError

APPLICATIONS = "/api/serve/applications/"
TIMEOUT_S = 30.0
POLL_S = 0.1
_TOLD_CHARACTERS = 600


class ReplicaState(BaseModel):
    """A replica as Serve reports it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: str


class DeploymentState(BaseModel):
    """A deployment as Serve reports it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str
    message: str = ""
    replicas: tuple[ReplicaState, ...] = ()

    @property
    def running(self) -> int:
        """How many replicas run."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)


class ApplicationState(BaseModel):
    """An application as Serve reports it; `deployed_app_config` is what was applied last."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str
    message: str = ""
    deployments: Mapping[str, DeploymentState] = Field(default_factory=dict)
    deployed_app_config: Mapping[str, Any] | None = None

    @property
    def failure(self) -> str | None:
        """Why it does not run, or None while it may still come."""
        if self.status == "DEPLOY_FAILED":
            told = [self.message, *(item.message for item in self.deployments.values())]
        else:
            told = [
                item.message
                for item in self.deployments.values()
                if "failed to start" in item.message
            ]
            if not told:
                return None
        return _last_words(" ".join(part for part in told if part))


class ServeApi:
    """A client of the dashboard.

    Args:
        address: of the dashboard, `http://host:port`.
        token: Ray's, or None where it asks for none.
        transport: another way to send requests than the network.
    """

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
        """Close its connections."""
        await self._client.aclose()

    async def apply(self, config: object) -> None:
        """Apply a whole configuration; returns when Serve has taken it, before it is in force.

        Raises:
            ReleaseError: the dashboard does not answer, or Serve refused.
        """
        await self._ask("PUT", config)

    async def applications(self) -> dict[str, ApplicationState]:
        """Return what Serve says of every application.

        Raises:
            ReleaseError: the dashboard does not answer, or with something else.
        """
        answer = await self._ask("GET")
        try:
            given = answer.json()["applications"]
            return {name: ApplicationState.model_validate(item) for name, item in given.items()}
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise ReleaseError(
                f"expected Serve's applications from {self._address}, found something else: is it Ray's dashboard?"
            ) from error

    async def wait_running(self, name: str, within_s: float) -> ApplicationState:
        """Wait until an application runs.

        Raises:
            ReleaseError: it failed, or does not run in time.
        """
        give_up = time.monotonic() + within_s
        while True:
            state = (await self.applications()).get(name)
            if state is not None:
                if state.status == "RUNNING":
                    return state
                if (failure := state.failure) is not None:
                    raise ReleaseError(f"expected application '{name}' to start, found: {failure}")
            if time.monotonic() > give_up:
                found = "nothing of it" if state is None else state.status
                raise ReleaseError(
                    f"expected application '{name}' to run within {within_s:g} s, found {found}"
                )
            await asyncio.sleep(POLL_S)

    async def wait_gone(self, name: str, within_s: float) -> None:
        """Wait until an application is no more.

        Raises:
            ReleaseError: it is still there.
        """
        give_up = time.monotonic() + within_s
        while (state := (await self.applications()).get(name)) is not None:
            if time.monotonic() > give_up:
                raise ReleaseError(
                    f"expected application '{name}' to be gone within {within_s:g} s, found {state.status}"
                )
            await asyncio.sleep(POLL_S)

    async def _ask(self, method: str, body: object = None) -> httpx.Response:
        try:
            answer = await self._client.request(method, APPLICATIONS, json=body)
        except httpx.HTTPError as error:
            raise ReleaseError(
                f"expected Ray's dashboard at {self._address}, found {type(error).__name__}: start the service, or name the "
                "address with --address or RAY_DASHBOARD_ADDRESS"
            ) from error
        if answer.status_code in {401, 403}:
            raise ReleaseError(
                f"expected Ray's token to be taken by {self._address}, found status {answer.status_code}: set RAY_AUTH_TOKEN, or "
                "RAY_AUTH_TOKEN_PATH to its file"
            )
        if answer.status_code != httpx.codes.OK:
            raise ReleaseError(
                f"expected Serve to take the configuration, found status {answer.status_code}: {_last_words(answer.text)}"
            )
        return answer


def ray_token(environment: Mapping[str, str], home: Path) -> str | None:
    """Return the token of Ray's control plane, from where Ray itself takes it; None when there is none."""
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
    """Return where the dashboard answers: what was given, else the environment's, else Ray's usual place."""
    return given or os.environ.get("RAY_DASHBOARD_ADDRESS") or "http://127.0.0.1:8265"


def _last_words(text: str) -> str:
    """Return the end of what Ray tells, which holds the cause; before it stands a trace that helps nobody here."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if "Error: " in line or "Exception: " in line]
    told = causes[-1] if causes else " ".join(lines)
    return told if len(told) <= _TOLD_CHARACTERS else f"...{told[-_TOLD_CHARACTERS:]}"
