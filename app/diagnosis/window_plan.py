"""From the bins of windows of one topology to their graphs and what their features say of the input, by a plan made once.

The graph builder, a fleet's run and the benchmark's peers call this; training calls the parts, since it needs the features.
Invariant: a window's graph and summary do not depend on the windows beside it.
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
    """All that windows of one topology take from it and a feature spec; the same for machines that differ in id and name alone."""

    features: FeaturePlan
    summary: QualityPlan
    topology: Topology

    @property
    def equipment(self) -> Equipment:
        """Return the machine that the plan was made from."""
        return self.summary.equipment

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that grow with the steps, and with them nearly all: four of one size."""
        size: int = 4 * self.features.mean_STF.nbytes
        return size


def plan_windows(equipment: Equipment, spec: FeatureSpec) -> WindowPlan:
    """Work out once what all windows of a topology share.

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
