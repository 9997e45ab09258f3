"""The graph builder: windows to graphs, for any version. It imports neither torch nor Ray.

A graph is built with the feature spec of the version that will score it, named by its digest.
Specs, structures and baselines of machines arrive as documents; what is made from them is kept, so
that most calls carry none.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from cachetools import LRUCache
from pydantic_core import from_json

from app.core.errors import HydraulicDiagnosticsError
from app.core.settings import Settings
from app.diagnosis.pipeline import BuildResult, WindowGroup, build_groups
from app.diagnosis.window_plan import WindowPlan, plan_windows
from app.features.baseline import Baseline
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment
from app.serving.observability.builder_metrics import BuilderMetrics
from app.serving.observability.ecs import traces_of
from app.serving.observability.exposition import ReplicaText
from app.serving.observability.logging import configure_logging, reconfigure_logging
from app.serving.rpc.messages import BuildAnswer, BuildCall

MAX_SPECS = 16
MAX_PLAN_BYTES = 256 * 1024 * 1024
LARGE_BYTES = 32 * 1024
"""Of a structure as JSON that is planned in a thread: some 150 components with their sensors."""


class _Key(NamedTuple):
    """Identifies a plan."""

    structure_digest: str
    baseline_id: str
    spec_digest: str

    @classmethod
    def of(cls, group: WindowGroup, call: BuildCall) -> Self:
        return cls(group.structure_digest, group.baseline_id, call.spec_digest)

    @property
    def documents(self) -> list[str]:
        """Of the structure and of the baseline, if there is one."""
        return [each for each in (self.structure_digest, self.baseline_id) if each]


class GraphBuilder:
    """One replica of the graph-builder pool."""

    def __init__(self) -> None:
        self.metrics = BuilderMetrics()
        self._specs: LRUCache[str, FeatureSpec] = LRUCache(MAX_SPECS)
        self._plans: LRUCache[_Key, WindowPlan] = LRUCache(
            MAX_PLAN_BYTES, lambda plan: min(plan.nbytes, MAX_PLAN_BYTES)
        )
        self.metrics.plans.set_function(lambda: len(self._plans))
        self.metrics.plan_bytes.set_function(lambda: self._plans.currsize)

    async def metrics_text(self) -> ReplicaText:
        """Return the metrics of this replica."""
        return await self.metrics.scraped()

    async def build(self, call: BuildCall) -> BuildAnswer:
        """Build the graph of each window; a window that can't be built yields its error."""
        with traces_of(call.traces):
            return await self._build(call)

    async def _build(self, call: BuildCall) -> BuildAnswer:
        started = time.perf_counter()
        keys = [_Key.of(group, call) for group in call.groups]
        plans = {key: self._plans.get(key) for key in keys}
        missing = [
            digest
            for key, plan in plans.items()
            if plan is None
            for digest in key.documents
            if digest not in call.documents
        ]
        if call.spec_digest not in self._specs:
            text = call.documents.get(call.spec_digest)
            if text is None:
                missing.append(call.spec_digest)
            else:
                self._specs[call.spec_digest] = FeatureSpec.model_validate_json(text)
        if missing:
            self.metrics.calls.labels("missing").inc()
            return BuildAnswer(BuildResult((), {}), missing)
        spec = self._specs[call.spec_digest]

        refused: dict[_Key, HydraulicDiagnosticsError] = {}
        for key, plan in plans.items():
            if plan is None and len(call.documents[key.structure_digest]) > LARGE_BYTES:
                # planning a graph of hundreds of components takes a tenth of a second
                try:
                    made = await asyncio.to_thread(_plan, key, call.documents, spec)
                    plans[key] = self._plans[key] = made
                except HydraulicDiagnosticsError as error:
                    refused[key] = error

        def plan_of(group: WindowGroup) -> WindowPlan:
            key = _Key.of(group, call)
            if key in refused:
                raise refused[key]
            plan = plans[key]
            self.metrics.plan_lookups.labels("miss" if plan is None else "hit").inc()
            if plan is None:
                plan = self._plans[key] = _plan(key, call.documents, spec)
            return plan

        result = build_groups(call.groups, plan_of)
        self._note(call, result, time.perf_counter() - started)
        return BuildAnswer(result)

    def _note(self, call: BuildCall, result: BuildResult, seconds: float) -> None:
        windows = sum(len(group.positions) for group in call.groups)
        self.metrics.calls.labels("built").inc()
        self.metrics.built_seconds.observe(seconds)
        self.metrics.call_windows.observe(windows)
        self.metrics.windows.labels("failed").inc(len(result.errors))
        self.metrics.windows.labels("built").inc(windows - len(result.errors))


class GraphBuilderDeployment(GraphBuilder):
    """A graph builder that configures the logging of its process: the deployment of Serve."""

    def __init__(self) -> None:
        configure_logging(Settings().log_level)
        super().__init__()

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Apply a new `user_config`; Serve calls this."""
        reconfigure_logging(user_config)


def _plan(key: _Key, documents: Mapping[str, bytes], spec: FeatureSpec) -> WindowPlan:
    document = from_json(documents[key.structure_digest])
    # the id appears in messages alone, where each window's own takes its place
    equipment = Equipment.model_validate({**document, "equipment_id": document["design"]})
    baseline = Baseline.model_validate_json(documents[key.baseline_id]) if key.baseline_id else None
    return plan_windows(equipment, spec, baseline)
