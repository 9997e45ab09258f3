"""Versions that are slow or broken on purpose, as applications for the benchmark's configuration; the service itself has none.

Invariant: they start and answer probes as the real ones do; only scores come late or not at all.
"""

import asyncio

from pydantic import BaseModel, ConfigDict
from ray import serve

from app.diagnosis.pipeline import ScoreResult
from app.serving.model_server.server import ModelDeployment
from app.serving.rpc.messages import ScoreCall


class BrokenArgs(BaseModel):
    """Arguments of such a version's application: its checkpoint, how long it sleeps, and whether it raises after that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    sleep_s: float = 0.0
    raises: bool = False


class BrokenReplica(ModelDeployment):
    """A model replica that sleeps before it scores, or raises."""

    def __init__(self, args: BrokenArgs) -> None:
        super().__init__(args.checkpoint, "cpu", 1)
        self._args = args

    async def score(self, call: ScoreCall) -> ScoreResult:
        await asyncio.sleep(self._args.sleep_s)
        if self._args.raises:
            raise RuntimeError("made to fail")
        return await super().score(call)


def model(args: BrokenArgs) -> serve.Application:
    """Bind such a version as `app.serving.build` binds a real one."""
    return serve.deployment(name="Model")(BrokenReplica).bind(args)
