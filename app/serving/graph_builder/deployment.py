"""The graph builder: windows to graphs, for any version. It imports neither torch nor Ray.

A graph is built with the feature spec of the version that will score it, named by its digest. Specs
and structures of machines arrive as documents and are kept, so that most calls carry none.
"""

from cachetools import LRUCache
from pydantic_core import from_json

from app.core.settings import Settings
from app.diagnosis.pipeline import BuildResult, WindowGroup, build_groups
from app.diagnosis.window_plan import WindowPlan, plan_windows
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment
from app.serving.observability.logging import configure_logging
from app.serving.rpc.messages import BuildAnswer, BuildCall

MAX_SPECS = 16
MAX_PLAN_BYTES = 256 * 1024 * 1024


class GraphBuilder:
    """One replica of the graph-builder pool."""

    def __init__(self) -> None:
        self._specs: LRUCache[str, FeatureSpec] = LRUCache(MAX_SPECS)
        self._plans: LRUCache[tuple[str, str], WindowPlan] = LRUCache(
            MAX_PLAN_BYTES, lambda plan: min(plan.nbytes, MAX_PLAN_BYTES)
        )
        """By the digests of structure and feature spec."""

    async def build(self, call: BuildCall) -> BuildAnswer:
        """Build the graph of each window; a window that can't be built yields its error."""
        plans = {
            group.structure_digest: self._plans.get((group.structure_digest, call.spec_digest))
            for group in call.groups
        }
        missing = [
            digest
            for digest, plan in plans.items()
            if plan is None and digest not in call.documents
        ]
        if call.spec_digest not in self._specs:
            text = call.documents.get(call.spec_digest)
            if text is None:
                missing.append(call.spec_digest)
            else:
                self._specs[call.spec_digest] = FeatureSpec.model_validate_json(text)
        if missing:
            return BuildAnswer(BuildResult((), {}), missing)
        spec = self._specs[call.spec_digest]

        def plan_of(group: WindowGroup) -> WindowPlan:
            plan = plans[group.structure_digest]
            if plan is None:
                plan = _plan(call.documents[group.structure_digest], spec)
                self._plans[group.structure_digest, call.spec_digest] = plan
            return plan

        return BuildAnswer(build_groups(call.groups, plan_of))


class GraphBuilderDeployment(GraphBuilder):
    """A graph builder that configures the logging of its process: the deployment of Serve."""

    def __init__(self) -> None:
        configure_logging(Settings().log_level)
        super().__init__()


def _plan(structure: bytes, spec: FeatureSpec) -> WindowPlan:
    document = from_json(structure)
    # the id appears in messages alone, where each window's own takes its place
    equipment = Equipment.model_validate({**document, "equipment_id": document["design"]})
    return plan_windows(equipment, spec)
