"""The service without its metrics and access lines, to measure what those cost; an application for the benchmark's configuration.

Invariant: nothing else is left out.
"""

import logging

from prometheus_client import Counter, Gauge, Histogram
from ray import serve

from app.release.service import open_release_service
from app.serving.graph_builder.builder import GraphBuilderDeployment
from app.serving.ingress.config import DiagnosticsArgs
from app.serving.ingress.service import IngressDeployment
from app.serving.observability.logging import ACCESS_LOGGER


class PlainIngress(IngressDeployment):
    """An ingress replica whose counters do not count and whose access lines are not written."""

    async def __init__(self, *arguments: object) -> None:  # type: ignore[misc]
        # Serve makes the constructor of what it decorates a coroutine
        await super().__init__(*arguments)  # type: ignore[arg-type,misc,func-returns-value]
        logging.getLogger(ACCESS_LOGGER).disabled = True
        for kind, method in ((Counter, "inc"), (Gauge, "set"), (Histogram, "observe")):
            setattr(kind, method, lambda *_: None)
            setattr(kind, "labels", lambda self, *_: self)  # noqa: B010 - a method is replaced


def diagnostics(args: DiagnosticsArgs) -> serve.Application:
    """Bind the plain ingress as `app.main` binds the real one."""
    builder = serve.deployment(name="GraphBuilder")(GraphBuilderDeployment)
    return serve.deployment(name="Ingress")(PlainIngress).bind(
        builder.bind(), args, open_release_service
    )
