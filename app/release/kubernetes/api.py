"""A client of the Kubernetes API server: where it is, credentials, errors, retries, watches.

It uses httpx, as Serve's clients here do: the official client is synchronous, generated for every
resource, and brings ten packages for what are five requests. Token and certificate authority are
read again for each request, since Kubernetes rotates both.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field, ValidationError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from app.core.errors import (
    ReleaseError,
    ReleasesElsewhere,
    ReleasesUnavailable,
    SettingsError,
)
from app.core.settings import Settings

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 10.0
RETRY_S = 15.0
"""How long a request is repeated while the API server does not answer, or is overloaded."""
WATCH_S = 30
"""Seconds after which the API server ends a watch, and the client begins another one.

A connection that died silently is noticed no later; Kubernetes would allow an hour.
"""
REWATCH_S = 0.5
_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_MESSAGE_CHARACTERS = 400

M = TypeVar("M", bound=BaseModel)


class Access(NamedTuple):
    """How to reach the API server.

    Args:
        url: `https://host:port`, or `http://` of a proxy on this machine.
        token_file: Holds the bearer token; None without one.
        ca_file: Certificates (PEM) that sign the server's; None for the public authorities.
    """

    url: str
    token_file: Path | None
    ca_file: Path | None


class Answer(NamedTuple):
    """An answer of the API server; `date` is its clock."""

    status: int
    body: bytes
    date: datetime


class Cause(BaseModel, frozen=True):
    """One cause of a refusal, such as a field that another manager owns."""

    reason: str = ""
    message: str = ""
    field: str = ""


class Causes(BaseModel, frozen=True):
    """`details` of a refusal."""

    causes: tuple[Cause, ...] = ()


class Refusal(BaseModel, frozen=True):
    """A `Status` of the API server: why it refused a request."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Causes = Causes()


class _Version(BaseModel, frozen=True):
    resource_version: str = Field("", alias="resourceVersion")


class _Versioned(BaseModel, frozen=True):
    metadata: _Version = _Version()


class _Event(BaseModel, frozen=True):
    type: str
    object: Mapping[str, Any]


class KubernetesApi:
    """A client of one API server; see `send` for its errors.

    Args:
        access: How to reach it.
        retry_s: How long a request is repeated unless it says otherwise; None for RETRY_S.
    """

    def __init__(self, access: Access, retry_s: float | None = None) -> None:
        self._access = access
        self._retry_s = retry_s

    def send(
        self,
        method: str,
        path: str,
        *,
        accepts: Collection[int] = (),
        params: Mapping[str, str] | None = None,
        body: object = None,
        media_type: str = "application/json",
        timeout_s: float | None = None,
        retry_s: float | None = None,
    ) -> Answer:
        """Send a request; repeat it while the server does not answer.

        A repeated write may find that the one before it succeeded: callers send
        `metadata.resourceVersion`, so that it is refused with 409, and compare what is stored.

        Args:
            method: HTTP method.
            path: With its leading slash.
            accepts: Statuses above 299 that are returned instead of raised.
            params: Query.
            body: Sent as JSON.
            media_type: Of the body.
            timeout_s: Limit of one attempt; None for TIMEOUT_S.
            retry_s: How long it is repeated; None for that of this client.

        Raises:
            ReleasesElsewhere: The server refuses the credentials, or they lack the right.
            SettingsError: The credentials cannot be read.
            ReleasesUnavailable: The server does not answer.
            ReleaseError: It refuses the request.
        """
        content = None if body is None else json.dumps(body).encode()
        limits_s = (retry_s, self._retry_s, RETRY_S)
        retrying = Retrying(
            retry=retry_if_exception_type(ReleasesUnavailable),
            stop=stop_after_delay(next(each for each in limits_s if each is not None)),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                return self._send_once(
                    method, path, accepts, params, content, media_type, timeout_s or TIMEOUT_S
                )
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _send_once(
        self,
        method: str,
        path: str,
        accepts: Collection[int],
        params: Mapping[str, str] | None,
        content: bytes | None,
        media_type: str,
        timeout_s: float,
    ) -> Answer:
        headers = self._headers() | ({} if content is None else {"content-type": media_type})
        try:
            with httpx.Client(verify=self._verify(), trust_env=False, timeout=timeout_s) as client:
                url = self._access.url + path
                answer = client.request(
                    method, url, params=params, headers=headers, content=content
                )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.status_code not in accepts:
            self._check(answer, f"{method} {path}")
        return Answer(answer.status_code, answer.content, _date_of(answer))

    async def changes(self, collection: str, name: str, model: type[M]) -> AsyncGenerator[M, None]:
        """Yield an object as it is, and again after each change, without an end.

        Outages are waited for: the object is read again, then watched from there.

        Args:
            collection: Path of the objects of its kind in its namespace.
            name: The object.
            model: What is read of it.

        Raises:
            ReleasesElsewhere: The credentials lack the right, or the object does not exist.
            SettingsError: The credentials cannot be read.
        """
        while True:
            try:
                async with self._async_client() as client:
                    path = f"{collection}/{name}"
                    answer = await client.get(path, headers=self._headers())
                    self._check(answer, f"GET {path}")
                    yield read_object(model, answer.content)
                    version = _Versioned.model_validate_json(answer.content).metadata
                    async for found in self._watched(
                        client, collection, name, version.resource_version
                    ):
                        yield read_object(model, json.dumps(found).encode())
            except (httpx.HTTPError, ReleasesUnavailable):
                pass  # it is read again
            await asyncio.sleep(REWATCH_S)

    async def _watched(
        self, client: httpx.AsyncClient, collection: str, name: str, version: str
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the newer states of an object until the watch ends or its version is too old."""
        params = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        request = client.build_request(
            "GET",
            collection,
            params=params,
            headers=self._headers(),
            timeout=httpx.Timeout(TIMEOUT_S, read=WATCH_S + TIMEOUT_S),
        )
        answer = await client.send(request, stream=True)
        try:
            if answer.is_error:
                await answer.aread()
            if answer.status_code == httpx.codes.GONE:
                return
            self._check(answer, f"GET {collection}?watch")
            async for line in answer.aiter_lines():
                try:
                    event = _Event.model_validate_json(line)
                except ValidationError:  # half a line of an interrupted watch
                    return
                if event.type == "ERROR":  # 410: the version is older than the server's history
                    return
                if event.type == "DELETED":
                    raise ReleasesElsewhere(f"expected '{name}' to exist, found it deleted")
                if event.type != "BOOKMARK":
                    yield event.object
        finally:
            await answer.aclose()

    def _async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._access.url, verify=self._verify(), trust_env=False, timeout=TIMEOUT_S
        )

    def _headers(self) -> dict[str, str]:
        file = self._access.token_file
        if file is None:
            return {}
        try:
            token = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(
                f"expected the token of the API server in '{file}', found: {error.strerror}: set "
                "HYDRAULIC_KUBERNETES_TOKEN_FILE, or mount the token of the service account"
            ) from error
        return {"authorization": f"Bearer {token}"}

    def _verify(self) -> ssl.SSLContext | bool:
        file = self._access.ca_file
        if file is None:
            return True
        try:
            context = ssl.create_default_context(cadata=file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"expected certificates (PEM) of the API server's authority in '{file}', found: "
                f"{error}: set HYDRAULIC_KUBERNETES_CA_FILE"
            ) from error
        # authorities of older clusters lack the key identifiers that Python 3.13 requires
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    def _unreachable(self, error: httpx.HTTPError) -> ReleasesUnavailable:
        return ReleasesUnavailable(
            f"expected the Kubernetes API server at {self._access.url}, found: "
            f"{error or type(error).__name__}: correct HYDRAULIC_KUBERNETES_URL, or repeat the "
            "command when it answers"
        )

    def _check(self, answer: httpx.Response, request: str) -> None:
        if answer.is_success:
            return
        status, why = answer.status_code, refusal_of(answer.content).message
        found = f"status {status}, {why[:_MESSAGE_CHARACTERS]}" if why else f"status {status}"
        if status == httpx.codes.UNAUTHORIZED:
            file = self._access.token_file
            if file is None:
                raise ReleasesElsewhere(
                    f"expected {self._access.url} to accept requests without a token, found "
                    f"{found}: set HYDRAULIC_KUBERNETES_TOKEN_FILE"
                )
            raise ReleasesElsewhere(
                f"expected {self._access.url} to accept the token in '{file}', found {found}: it "
                "may have expired, write a new one there"
            )
        if status == httpx.codes.FORBIDDEN:
            raise ReleasesElsewhere(
                f"expected the right to {request}, found {found}: bind the Role of "
                "docs/how-to/release.md to this service account"
            )
        if status == httpx.codes.NOT_FOUND:
            raise ReleasesElsewhere(
                f"expected an answer to {request}, found {found}: correct HYDRAULIC_RAYSERVICE, or "
                "apply the manifests"
            )
        message = f"expected {self._access.url} to accept {request}, found {found}"
        if status in _TRANSIENT:
            raise ReleasesUnavailable(f"{message}: repeat the command later")
        raise ReleaseError(f"{message}: correct what it names, or see its log")


def read_object(model: type[M], body: bytes) -> M:
    """Read an object of the API server.

    Raises:
        ReleaseError: It is something else.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ReleaseError(
            f"expected a {model.__name__} of the Kubernetes API server, found something else: "
            "correct HYDRAULIC_KUBERNETES_URL"
        ) from error


def refusal_of(body: bytes) -> Refusal:
    """Return why the API server refused; empty when the body is of something else, as a proxy."""
    try:
        return Refusal.model_validate_json(body)
    except ValidationError:
        return Refusal()


def find_access(settings: Settings, environment: Mapping[str, str]) -> Access:
    """Return the API server of the settings, else that of the pod.

    Raises:
        SettingsError: There is neither, or a token would cross the network in clear text.
    """
    if settings.kubernetes_url is not None:
        parts = urlsplit(settings.kubernetes_url)
        if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
            raise SettingsError(
                f"expected https:// in HYDRAULIC_KUBERNETES_URL, found {settings.kubernetes_url}: "
                "only a proxy on this machine, such as `kubectl proxy`, may use http://"
            )
        url = settings.kubernetes_url.rstrip("/")
        return Access(url, settings.kubernetes_token_file, settings.kubernetes_ca_file)
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    if not host:
        raise SettingsError(
            "expected a pod, or HYDRAULIC_KUBERNETES_URL, since HYDRAULIC_RAYSERVICE is set; found "
            "neither: run `kubectl proxy` and set it to http://127.0.0.1:8001"
        )
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    return Access(
        f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        settings.kubernetes_token_file or SERVICE_ACCOUNT / "token",
        settings.kubernetes_ca_file or SERVICE_ACCOUNT / "ca.crt",
    )


def _date_of(answer: httpx.Response) -> datetime:
    try:
        return parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)
