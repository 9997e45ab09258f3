"""A client of Ray's jobs on the dashboard: submits trainings, reads their state and output.

It uses HTTP and does not import Ray.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from app.core.errors import ClusterUnavailable, UnknownTraining

JOBS = "/api/jobs/"
TIMEOUT_S = 30.0
MAX_LOG_BYTES = 32 * 1024 * 1024
"""Of the output of a job, which the dashboard returns whole."""
_MESSAGE_CHARACTERS = 300


class Job(BaseModel, frozen=True):
    """A job as Ray reports it; times are milliseconds since 1970."""

    submission_id: str | None = None
    status: str
    message: str | None = None
    metadata: Mapping[str, str] | None = None
    start_time: int | None = None
    end_time: int | None = None

    @property
    def submitted_at(self) -> datetime | None:
        """When it was submitted."""
        return None if self.start_time is None else _time(self.start_time)

    @property
    def ended_at(self) -> datetime | None:
        """When it ended."""
        return None if self.end_time is None else _time(self.end_time)


class _Log(BaseModel):
    logs: str = Field(default="")


_Answer = TypeVar("_Answer")
_JOB, _JOBS, _LOG = TypeAdapter(Job), TypeAdapter(list[Job]), TypeAdapter(_Log)


class JobsApi:
    """A client of the dashboard; methods raise ClusterUnavailable when it does not answer.

    Args:
        address: The dashboard, `http://host:port`.
        token: Ray's token, or None without authentication.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self._address = address
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(base_url=address, headers=headers, timeout=TIMEOUT_S)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def submit(
        self, job_id: str, entrypoint: str, variables: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        """Start a job.

        Args:
            job_id: Of the new job.
            entrypoint: Its command line.
            variables: Of its environment; every user of the dashboard can read them.
            labels: Kept with the job.
        """
        await self._send(
            "POST",
            json={
                "submission_id": job_id,
                "entrypoint": entrypoint,
                "runtime_env": {"env_vars": dict(variables)},
                "metadata": dict(labels),
            },
        )

    async def jobs(self) -> list[Job]:
        """Return all jobs of the cluster."""
        return self._parsed(_JOBS, await self._send("GET"))

    async def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            UnknownTraining: There is none of this id.
        """
        return self._parsed(_JOB, await self._send("GET", job_id))

    async def stop(self, job_id: str) -> None:
        """Ask a job to stop; Ray kills it when it does not."""
        await self._send("POST", f"{job_id}/stop")

    async def log(self, job_id: str) -> str:
        """Return a job's output.

        Raises:
            ClusterUnavailable: It is longer than `MAX_LOG_BYTES`.
        """
        found = bytearray()
        try:
            async with self._client.stream("GET", f"{JOBS}{job_id}/logs") as answer:
                async for part in answer.aiter_bytes():
                    found += part
                    if len(found) > MAX_LOG_BYTES:
                        break
        except httpx.HTTPError as error:
            raise self._away() from error
        if len(found) > MAX_LOG_BYTES:
            raise ClusterUnavailable(
                f"expected at most {MAX_LOG_BYTES} bytes of output, found more: read it with "
                f"`ray job logs {job_id}` on the cluster"
            )
        if answer.status_code != httpx.codes.OK:
            raise self._refused(answer.status_code, found.decode(errors="replace"), job_id)
        return self._parsed(_LOG, bytes(found)).logs

    async def _send(self, method: str, path: str = "", **options: Any) -> bytes:
        try:
            answer = await self._client.request(method, JOBS + path, **options)
        except httpx.HTTPError as error:
            raise self._away() from error
        if answer.status_code != httpx.codes.OK:
            raise self._refused(answer.status_code, answer.text, path.partition("/")[0])
        return answer.content

    def _parsed(self, adapter: TypeAdapter[_Answer], body: bytes) -> _Answer:
        try:
            return adapter.validate_json(body)
        except ValidationError as error:
            raise ClusterUnavailable(
                f"expected Ray's jobs from {self._address}, found something else: is it Ray's "
                "dashboard?"
            ) from error

    def _away(self) -> ClusterUnavailable:
        return ClusterUnavailable(
            f"expected Ray's dashboard at {self._address}, found no answer: "
            "start the cluster, or set RAY_DASHBOARD_ADDRESS"
        )

    def _refused(self, status: int, text: str, job_id: str) -> ClusterUnavailable | UnknownTraining:
        if status == httpx.codes.NOT_FOUND:
            return UnknownTraining(
                f"expected the id of a training, found '{job_id}': list them with "
                "GET /v1/trainings",
                "training_id",
            )
        if status in {401, 403}:
            return ClusterUnavailable(
                f"expected {self._address} to accept Ray's token, found status {status}: set "
                "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file"
            )
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        cause = (lines or ["no reason"])[-1][:_MESSAGE_CHARACTERS]
        return ClusterUnavailable(
            f"expected Ray's dashboard to carry out the request, found status {status}: {cause}"
        )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
