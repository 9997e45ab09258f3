"""Graphs and input quality of windows of one topology, by a plan that is made once.

Training calls the parts, since it needs the features. Invariant: a window's graph and quality do
not depend on the other windows of the call.
"""

from dataclasses import dataclass, replace

from app.core.errors import UntrainedDesign
from app.diagnosis.input_quality import QualityBatch, QualityPlan, assess_batch, plan_quality
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import FeaturePlan, FeatureSpec, plan_features
from app.model.graph import GraphGroup, Topology, build_topology
from app.schemas.equipment import Equipment
from app.schemas.places import some_of


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What the windows of one topology share; machines may differ in id and name.

    With a baseline it is what the windows of one machine share.
    """

    features: FeaturePlan
    summary: QualityPlan
    topology: Topology

    @property
    def equipment(self) -> Equipment:
        """Return the machine that the plan was made from."""
        return self.summary.equipment

    @property
    def nbytes(self) -> int:
        """Bytes of nearly all arrays: four of one size that grow with the steps, and residuals."""
        residuals = self.features.residuals
        size: int = 4 * self.features.mean_STF.nbytes
        return size + (0 if residuals is None else residuals.nbytes)


def plan_windows(
    equipment: Equipment, spec: FeatureSpec, baseline: Baseline | None = None
) -> WindowPlan:
    """Make the plan of a topology and a feature spec.

    Args:
        equipment: the machine; without a baseline also another one of the same topology.
        spec: of the version.
        baseline: of the machine; needed for a design that the version was not trained on, and for
            a diagnosis that says anything where `FeatureSpec.needs_baseline`.

    Raises:
        UntrainedDesign: the version can't answer for the design.
        WindowError: no window of this topology can fit the spec.
    """
    check_design(equipment, spec, has_baseline=baseline is not None)
    features = plan_features(equipment, spec, baseline)
    quality = plan_quality(equipment, spec, baseline)
    if quality.lacks_baseline:  # the offsets of a machine would look like faults of its sensors
        features = replace(features, sensors=None)
    return WindowPlan(features, quality, build_topology(equipment, spec))


def check_design(equipment: Equipment, spec: FeatureSpec, *, has_baseline: bool) -> None:
    """Check that a version can answer for a machine of this design.

    A design that it was trained on needs nothing more. Any other needs the machine's baseline, a
    version that was trained with baselines, and component types and quantities of that training.

    Raises:
        UntrainedDesign: it can't.
    """
    design = equipment.design
    if design in spec.references:
        return
    head = f"not trained for design '{design}'; trained designs: {some_of(tuple(spec.references))}"
    if spec.normalisation == "design":
        raise UntrainedDesign(
            f"expected a version that was trained for the machine's design, found one that was "
            f"{head}: train a version on the history of this design, correct the machine's "
            "`design`, or use a version that was trained with machine_baseline_h, which needs only "
            "a baseline of the machine"
        )
    if not has_baseline:
        raise UntrainedDesign(
            f"expected a baseline of the machine, since the version was {head}; found none: record "
            "an interval in which the machine was healthy, with PUT "
            "/v1/equipment/{equipment_id}/baseline or `hydraulic equipment baseline ID --start "
            "TIME --end TIME`, train a version on the history of this design, or correct the "
            "machine's `design`"
        )
    types = {each for of_design in spec.types.values() for each in of_design.values()}
    quantities = {
        each.quantity for sensors in spec.references.values() for each in sensors.values()
    }
    for kind, known, found in (
        ("component types", types, {each.component_id: each.type for each in equipment.components}),
        (
            "quantities",
            quantities,
            {each.sensor_id: each.quantity for _, each in equipment.sensors},
        ),
    ):
        unknown = [f"'{value}' of '{name}'" for name, value in found.items() if value not in known]
        if unknown:
            raise UntrainedDesign(
                f"expected {kind} that the version was trained with ({some_of(sorted(known))}), "
                f"since it was {head}; found {some_of(unknown)}: train a version on the history of "
                "this design"
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
