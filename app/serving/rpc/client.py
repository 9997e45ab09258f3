"""The client of the graph builders and the model servers, through Serve's handles.

Small calls carry their arrays by value, which is cheaper; a replica accepts at most 4 MiB that way,
so larger calls pass them by reference through Ray's object store.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from cachetools import LRUCache
from ray import serve
from ray.serve.handle import DeploymentHandle

from app.diagnosis.pipeline import BuildResult, ScoreResult
from app.serving.observability import tracing
from app.serving.rpc.messages import BuildAnswer, BuildCall, ScoreCall, VersionDescription
from app.store.windows import StoredWindow

MAX_VALUE_BYTES = 2 * 1024 * 1024
STEP_BYTES = 64
"""Of one sensor at one step in a graph: its features as float32 and its mask, rounded up."""
MAX_DELIVERED = 10_000


class _Handles(NamedTuple):
    """One deployment's handle, for calls with arguments by value and by reference."""

    by_value: DeploymentHandle[Any]
    by_reference: DeploymentHandle[Any]

    @classmethod
    def of(cls, handle: DeploymentHandle[Any]) -> "_Handles":
        # pickle takes half the time of Serve's default, and nothing here needs cloudpickle
        by_value = handle.options(
            _by_reference=False, request_serialization="pickle", response_serialization="pickle"
        )
        return cls(by_value, handle.options(_by_reference=True))

    def for_bytes(self, size: int) -> DeploymentHandle[Any]:
        """Return the handle for a call whose arguments and answer have this many bytes."""
        return self.by_value if size <= MAX_VALUE_BYTES else self.by_reference


class DeploymentClient:
    """Calls the other deployments.

    Args:
        builder: handle of the graph-builder pool.
    """

    def __init__(self, builder: DeploymentHandle[Any]) -> None:
        self._builder = _Handles.of(builder)
        self._models: dict[str, _Handles] = {}
        self._delivered: LRUCache[str, bool] = LRUCache(MAX_DELIVERED)

    async def build(self, call: BuildCall, document_of: Callable[[str], bytes]) -> BuildResult:
        """Have a graph builder build graphs.

        The first call that needs a document carries it. A replica that does not have one, such as
        one that was started later, names it, and the call is repeated with all documents.

        Args:
            call: without documents.
            document_of: returns the document of a digest.
        """
        new = {each: document_of(each) for each in call.digests if each not in self._delivered}
        with tracing.span("build graphs"):
            answer = await self.send_build(replace(call, documents=new) if new else call)
            if answer.missing:
                documents = {each: document_of(each) for each in call.digests}
                answer = await self.send_build(replace(call, documents=documents))
        self._delivered.update(dict.fromkeys(call.digests, True))
        return answer.result

    async def send_build(self, call: BuildCall) -> BuildAnswer:
        """Send one call to a graph builder."""
        with tracing.only_sampled():
            response = self._builder.for_bytes(build_bytes(call)).build.remote(call)
        answer: BuildAnswer = await _ended(response)
        return answer

    async def probe_builder(self) -> None:
        """Have a graph builder show that it answers."""
        await self.send_build(BuildCall("", ()))

    async def describe(self, application: str) -> VersionDescription:
        """Return the description of a version's checkpoint from one of its replicas."""
        with tracing.only_sampled():
            response = self._model(application).by_value.describe.remote()
        description: VersionDescription = await _ended(response)
        return description

    async def score(self, application: str, call: ScoreCall) -> ScoreResult:
        """Have a version's replica score graphs."""
        size = sum(group.x_WSTF.nbytes + group.mask_WST.nbytes for group in call.groups)
        with tracing.span("score graphs"):
            with tracing.only_sampled():
                response = self._model(application).for_bytes(size).score.remote(call)
            result: ScoreResult = await _ended(response)
        return result

    async def probe(self, application: str) -> None:
        """Have a version's replica show that it scores."""
        with tracing.only_sampled():
            response = self._model(application).by_value.probe.remote()
        await _ended(response)

    def _model(self, application: str) -> _Handles:
        # kept: finding an application blocks on Serve's controller; a handle outlives redeployments
        if application not in self._models:
            self._models[application] = _Handles.of(serve.get_app_handle(application))
        return self._models[application]


async def _ended(response: Any) -> Any:
    """Await a call; when its caller is cancelled or late, so is the work of the replica."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


def build_bytes(call: BuildCall) -> int:
    """Return about how many bytes a call's windows and their graphs have."""
    size = sum(map(len, call.documents.values()))
    for group in call.groups:
        size += len(group.positions) * group.sensors * group.steps * STEP_BYTES
        size += sum(
            len(readings.values) if isinstance(readings, StoredWindow) else readings.nbytes
            for readings in group.readings
        )
    return size
