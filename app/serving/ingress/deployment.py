"""The ingress as a Serve deployment: HTTP outside, the store and the other deployments inside.

It imports no torch. Weights, shadows and thresholds are its `user_config`, which changes in place.
"""

import gc
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from app.core.settings import Settings
from app.serving.http.app import build_api
from app.serving.ingress.config import DiagnosticsArgs
from app.serving.ingress.service import OpenReleaseService, open_service
from app.serving.observability.logging import configure_logging
from app.serving.rpc.client import DeploymentClient

GC_THRESHOLDS = (20_000, 20, 20)
"""Of `gc.set_threshold`. A batch of diagnoses allocates thousands of objects without cycles;
collecting after each 700, Python's default, takes a tenth of the ingress's CPU time."""


@serve.ingress()
class IngressDeployment:
    """One ingress replica.

    Args:
        builder: handle of the graph-builder pool.
        args: of the `diagnostics` application.
        open_release_service: opens what performs releases; a function of a module, since Ray
            serialises it.
    """

    def __init__(
        self,
        builder: DeploymentHandle[Any],
        args: DiagnosticsArgs,
        open_release_service: OpenReleaseService,
    ) -> None:
        gc.set_threshold(*GC_THRESHOLDS)
        settings = Settings()
        configure_logging(settings.log_level)
        self.service = open_service(DeploymentClient(builder), settings, args, open_release_service)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Apply a new `user_config`; Serve calls this."""
        self.service.configure(user_config)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the HTTP interface; Serve calls this after the constructor."""
        return build_api(self.service)
