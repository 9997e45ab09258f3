"""The calls between deployments, through Serve's handles, as plain functions.

Invariant: arrays travel by value, which is cheaper than by reference for our sizes.
"""

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.serving.messages import BuildAnswer, BuildCall, ScoreAnswer, ScoreCall, VersionDescription


async def build(builder: DeploymentHandle[Any], call: BuildCall) -> BuildAnswer:
    """Have the graph-builder pool build graphs."""
    found: BuildAnswer = await builder.options(_by_reference=False).build.remote(call)
    return found


async def describe(application: str) -> VersionDescription:
    """Ask a version's application what it is."""
    found: VersionDescription = await _model(application).describe.remote()
    return found


async def score(application: str, call: ScoreCall) -> ScoreAnswer:
    """Have a version's application score graphs."""
    found: ScoreAnswer = await _model(application).score.remote(call)
    return found


async def probe(application: str) -> None:
    """Have a version's application show that it answers."""
    await _model(application).probe.remote()


def _model(application: str) -> DeploymentHandle[Any]:
    handle: DeploymentHandle[Any] = serve.get_app_handle(application).options(_by_reference=False)
    return handle
