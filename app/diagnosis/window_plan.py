"""Graphs and input quality of windows of one topology, by a plan that is made once.

Training calls the parts, since it needs the features. Invariant: a window's graph and quality do
not depend on the other windows of the call.
"""

from dataclasses import dataclass

from app.diagnosis.input_quality import QualityBatch, QualityPlan, assess_batch, plan_quality
from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import FeaturePlan, FeatureSpec, plan_features
from app.model.graph import GraphGroup, Topology, build_topology
from app.schemas.equipment import Equipment


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What the windows of one topology share; machines may differ in id and name."""

    features: FeaturePlan
    summary: QualityPlan
    topology: Topology

    @property
    def equipment(self) -> Equipment:
        """Return the machine that the plan was made from."""
        return self.summary.equipment

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that grow with the steps, which are nearly all: four of one size."""
        size: int = 4 * self.features.mean_STF.nbytes
        return size


def plan_windows(equipment: Equipment, spec: FeatureSpec) -> WindowPlan:
    """Make the plan of a topology and a feature spec.

    Raises:
        WindowError: no window of this topology can fit the spec.
    """
    return WindowPlan(
        plan_features(equipment, spec),
        plan_quality(equipment, spec),
        build_topology(equipment, spec),
    )


def build_windows(values_WSN: Floats, plan: WindowPlan) -> tuple[GraphGroup, QualityBatch]:
    """Build the graphs of windows of one topology and assess their input.

    Args:
        values_WSN: bins in the order of `Equipment.sensors`, in the sensors' units, NaN where
            missing.
        plan: of their topology.
    """
    features = batch_features(values_WSN, plan.features)
    graph = GraphGroup(plan.topology, features.x_WSTF, features.mask_WST)
    return graph, assess_batch(features, plan.summary)
