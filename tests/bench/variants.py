"""Variants of the service's applications, named by `import_path` in the benchmark's configurations.

`diagnostics` is the ingress without metrics and access lines, as the baseline of their cost.
`model` is a version that is slow or fails, to measure what such a shadow costs callers. Everything
else is as in the service.
"""

import asyncio
import logging

from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel, ConfigDict
from ray import serve

from app.diagnosis.pipeline import ScoreResult
from app.release.service import open_release_service
from app.serving.graph_builder.deployment import GraphBuilderDeployment
from app.serving.ingress.config import DiagnosticsArgs
from app.serving.ingress.deployment import IngressDeployment
from app.serving.model_server.deployment import ModelDeployment
from app.serving.observability.logging import ACCESS_LOGGER
from app.serving.rpc.messages import ScoreCall


class PlainIngress(IngressDeployment):
    """An ingress replica that counts no metrics and writes no access lines."""

    async def __init__(self, *arguments: object) -> None:  # type: ignore[misc]
        # Serve turns the constructor of a deployment class into a coroutine
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


class FaultyModelArgs(BaseModel):
    """Arguments of a faulty version's application.

    Args:
        checkpoint: directory of the checkpoint.
        sleep_s: delay before each call is scored.
        raises: whether each call raises after the delay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    sleep_s: float = 0.0
    raises: bool = False


class FaultyModel(ModelDeployment):
    """A model replica that sleeps before it scores, or raises."""

    def __init__(self, args: FaultyModelArgs) -> None:
        super().__init__(args.checkpoint, "cpu", 1)
        self._args = args

    async def score(self, call: ScoreCall) -> ScoreResult:
        await asyncio.sleep(self._args.sleep_s)
        if self._args.raises:
            raise RuntimeError("made to fail")
        return await super().score(call)


def model(args: FaultyModelArgs) -> serve.Application:
    """Bind a faulty version as `app.main` binds a real one."""
    return serve.deployment(name="Model")(FaultyModel).bind(args)
