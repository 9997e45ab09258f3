"""The calls between deployments, through Serve's handles, as plain functions.

Arrays travel by value, which is cheaper for usual sizes; a replica takes at most 4 MiB so, and larger calls go by reference.
Invariant: no call is larger than its way allows.
"""

from functools import cache
from typing import Any, NamedTuple

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.serving.observability import tracing
from app.serving.rpc.messages import (
    BuildAnswer,
    BuildCall,
    ScoreAnswer,
    ScoreCall,
    VersionDescription,
)
from app.store.windows import StoredWindow

MAX_VALUE_BYTES = 2 * 1024 * 1024
BYTES_OF_A_STEP = 64
"""Of one sensor at one step in a graph: its features as float32 and its mask, rounded up."""


class Passing(NamedTuple):
    """One handle twice: its calls carry their arguments by value, or by reference through Ray's object store."""

    by_value: DeploymentHandle[Any]
    by_reference: DeploymentHandle[Any]

    def for_bytes(self, size: int) -> DeploymentHandle[Any]:
        """Return the handle for a call whose arguments and answer have this many bytes together."""
        return self.by_value if size <= MAX_VALUE_BYTES else self.by_reference


def passing(handle: DeploymentHandle[Any]) -> Passing:
    """Return both ways to call a deployment."""
    # nothing here needs what Serve's own pickling can do beyond Python's, which takes half as long
    by_value = handle.options(
        _by_reference=False, request_serialization="pickle", response_serialization="pickle"
    )
    return Passing(by_value, handle.options(_by_reference=True))


async def build(builder: Passing, call: BuildCall) -> BuildAnswer:
    """Have the graph-builder pool build graphs."""
    with tracing.only_sampled():
        answer = builder.for_bytes(build_bytes(call)).build.remote(call)
    found: BuildAnswer = await answer
    return found


def build_bytes(call: BuildCall) -> int:
    """Return about how many bytes a call's windows and their graphs have."""
    readings = sum(
        len(window.readings.values)
        if isinstance(window.readings, StoredWindow)
        else window.readings.nbytes
        for window in call.windows
    )
    topologies = [call.topologies[window.topology] for window in call.windows]
    steps = sum(topology.sensors * topology.steps for topology in topologies)
    documents = sum(len(topology.document) for topology in call.topologies)
    return readings + documents + steps * BYTES_OF_A_STEP


async def describe(application: str) -> VersionDescription:
    """Ask a version's application what it is."""
    with tracing.only_sampled():
        answer = _model(application).by_value.describe.remote()
    found: VersionDescription = await answer
    return found


async def score(application: str, call: ScoreCall) -> ScoreAnswer:
    """Have a version's application score graphs."""
    size = call.graph.x_STF.nbytes + call.graph.mask_ST.nbytes
    with tracing.only_sampled():
        answer = _model(application).for_bytes(size).score.remote(call)
    found: ScoreAnswer = await answer
    return found


async def probe(application: str) -> None:
    """Have a version's application show that it answers."""
    with tracing.only_sampled():
        answer = _model(application).by_value.probe.remote()
    await answer


@cache
def _model(application: str) -> Passing:
    # asked once: finding an application is a blocking call to Serve's controller, and a handle outlives redeployments
    return passing(serve.get_app_handle(application))
