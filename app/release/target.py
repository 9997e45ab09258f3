"""Where releases are written and applied: a file and Serve's REST interface, or a RayService.

HYDRAULIC_RAYSERVICE chooses the second: on Kubernetes KubeRay applies the RayService's text again
whenever the head restarts, and what else Serve was given is lost.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

from tenacity.wait import wait_base

from app.core.errors import InputError
from app.core.settings import Settings
from app.release.clients.serve_api import ApplicationState, ServeApi, ray_token
from app.release.clients.service_api import service_url
from app.release.config.file import ConfigFile, ReadConfig
from app.release.config.schema import ServeConfig
from app.release.kubernetes.api import KubernetesApi, find_access
from app.release.kubernetes.rayservice import RayServiceConfig, RayServiceServe
from app.release.kubernetes.resource import RayServiceResource


class ConfigStore(Protocol):
    """Holds the text of the Serve configuration; one writer at a time.

    Invariant: it holds the old or the new text; a text is only replaced by one made from it.
    """

    name: str

    def read(self) -> ReadConfig:
        """Read it."""

    def read_text(self) -> str:
        """Read its text, which need not be valid."""

    def parse(self, text: str) -> ReadConfig:
        """Parse a text as its content."""

    def locked(self, holder: str) -> AbstractContextManager[None]:
        """Keep other commands out; `holder` is shown to them."""

    def replace(self, before: ReadConfig, text: str) -> ReadConfig:
        """Replace the text of `before`, while locked, and return the new content."""


class ServeTarget(Protocol):
    """What applies the configuration; methods raise ReleaseError when it does not follow."""

    in_force_s: float
    """Time limit until a change is in force."""
    outage_s: float
    """How long reads or measurements may fail during a promotion."""
    retry_wait: wait_base
    """Pauses between two attempts to get or write the configuration."""

    async def __aenter__(self) -> Self:
        """Return the client."""

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""

    async def apply(self, config: object) -> None:
        """Apply a whole configuration; returns before its traffic is in force."""

    async def applications(self) -> dict[str, ApplicationState]:
        """Return the state of every application."""

    async def wait_running(self, name: str, timeout_s: float) -> ApplicationState:
        """Wait until an application runs."""

    async def wait_gone(self, name: str, timeout_s: float) -> None:
        """Wait until an application was removed."""

    async def describe(self) -> list[str]:
        """Describe for people what `applications` does not say."""


def open_config(
    settings: Settings,
    path: Path | None = None,
    expected_digest: str | None = None,
    retry_s: float | None = None,
) -> ConfigStore:
    """Return what holds the configuration.

    Args:
        settings: Name the RayService, or the file.
        path: Another file; None for that of the settings.
        expected_digest: See `ConfigFile`.
        retry_s: How long a request to the API server is repeated; None for the default.

    Raises:
        InputError: A file is given although a RayService is configured.
        SettingsError: The API server is not configured.
    """
    if settings.rayservice is None:
        return ConfigFile(path or settings.serve_config, expected_digest)
    if path is not None:
        raise InputError(
            f"expected no configuration file, since HYDRAULIC_RAYSERVICE={settings.rayservice} "
            f"holds the configuration, found --config {path}: leave one out"
        )
    return RayServiceConfig(_resource(settings, settings.rayservice, retry_s), expected_digest)


def open_serve(
    settings: Settings, address: str | None, dashboard: Callable[[], str]
) -> ServeTarget:
    """Return what applies the configuration.

    Args:
        settings: Name the RayService, if there is one.
        address: Of Ray's dashboard; None to find it.
        dashboard: Finds it; not called for a RayService, whose head has another address after
            each restart: there it is RAY_DASHBOARD_ADDRESS, or else KubeRay's service of the head.

    Raises:
        SettingsError: The API server is not configured.
        ReleaseError: Ray's token cannot be read.
    """
    token = ray_token(os.environ, Path.home())
    if settings.rayservice is None:
        return ServeApi(address or dashboard(), token)
    namespace, _, name = settings.rayservice.partition("/")
    head = f"http://{name}-head-svc.{namespace}:8265"
    client = ServeApi(address or os.environ.get("RAY_DASHBOARD_ADDRESS") or head, token)
    return RayServiceServe(_resource(settings, settings.rayservice), client)


def url_of_service(settings: Settings, config: ServeConfig) -> str:
    """Return the service's base URL: on this machine, or KubeRay's service of a RayService."""
    if settings.rayservice is None:
        return service_url(config)
    namespace, _, name = settings.rayservice.partition("/")
    http = config.http_options
    scheme = "https" if http.ssl_certfile else "http"
    return f"{scheme}://{name}-serve-svc.{namespace}:{http.port}{http.root_path}"


def _resource(settings: Settings, place: str, retry_s: float | None = None) -> RayServiceResource:
    return RayServiceResource(KubernetesApi(find_access(settings, os.environ), retry_s), place)
