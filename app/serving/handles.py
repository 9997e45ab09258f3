"""The calls between deployments, through Serve's handles, as plain functions.

Invariant: arrays travel by value, which is cheaper than by reference for our sizes.
"""

from functools import cache
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.serving.messages import BuildAnswer, BuildCall, ScoreAnswer, ScoreCall, VersionDescription


def by_value(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """Return a handle whose calls carry their arguments by value."""
    passing: DeploymentHandle[Any] = handle.options(_by_reference=False)
    return passing


async def build(builder: DeploymentHandle[Any], call: BuildCall) -> BuildAnswer:
    """Have the graph-builder pool build graphs."""
    found: BuildAnswer = await builder.build.remote(call)
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


@cache
def _model(application: str) -> DeploymentHandle[Any]:
    # asked once: finding an application is a blocking call to Serve's controller, and a handle outlives redeployments
    return by_value(serve.get_app_handle(application))
