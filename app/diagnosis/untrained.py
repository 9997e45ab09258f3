"""What a version can say about a design that it was not trained on: by the types of components.

Pure. A head answers for the types of the components that it had labels for in any design. Grades
are names of a design, so there are none.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from app.checkpoint.calibration import UNCALIBRATED, Calibration, ComponentCalibration
from app.checkpoint.manifest import Head, Manifest
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment

UNTRAINED_WIDENING = 2.0
"""How much wider intervals are for a design that training never showed; not calibrated."""


def heads_by_type(
    equipment: Equipment, manifest: Manifest, spec: FeatureSpec
) -> dict[Head, Sequence[str]]:
    """Return by head the components of a machine whose types had labels for it."""
    found: dict[Head, Sequence[str]] = {}
    for head, designs in manifest.trained_heads.items():
        trained = {
            _type_of(spec, design, component_id)
            for design, ids in designs.items()
            for component_id in ids
        }
        found[head] = [
            component.component_id
            for component in equipment.components
            if head != "grade" and component.type in trained
        ]
    return found


def calibrations_by_type(
    equipment: Equipment, calibration: Calibration, spec: FeatureSpec
) -> Mapping[str, ComponentCalibration]:
    """Return the calibrations of a machine's components, with wide intervals.

    They are `UNTRAINED_WIDENING` times as wide as the widest of the trained components of the type,
    or of all types where it has none. Those with grades don't count: their intervals are in spreads
    of the grades. Without any, they begin with what holds for all distributions.
    """
    found: dict[str | None, list[ComponentCalibration]] = defaultdict(list)
    for design, components in calibration.components.items():
        for component_id, stated in components.items():
            if component_id not in spec.grades.get(design, {}):
                found[_type_of(spec, design, component_id)].append(stated)
    every = [stated for of_type in found.values() for stated in of_type]
    return {
        component.component_id: _widened(found.get(component.type) or every)
        for component in equipment.components
    }


def _type_of(spec: FeatureSpec, design: str, component_id: str) -> str | None:
    return spec.types.get(design, {}).get(component_id)


def _widened(trained: Sequence[ComponentCalibration]) -> ComponentCalibration:
    unknown = UNCALIBRATED.unsure_reach
    spreads = [each.most_spread for each in trained if each.most_spread is not None]
    caps_h = [each.rul_cap_h for each in trained if each.rul_cap_h is not None]
    return ComponentCalibration(
        health_reach=UNTRAINED_WIDENING * max((e.health_reach for e in trained), default=unknown),
        unsure_reach=UNTRAINED_WIDENING * max((e.unsure_reach for e in trained), default=unknown),
        rul_reach=UNTRAINED_WIDENING * max((e.rul_reach for e in trained), default=unknown),
        most_spread=min(spreads, default=None),
        rul_cap_h=max(caps_h, default=None),
    )
