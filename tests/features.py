"""Features of one window, as tests look at them."""

from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Floats
from app.features.extraction import FeatureBatch, batch_features, check_shape
from app.features.sensor_faults import Fault, faults_of
from app.features.spec import FeaturePlan, FeatureSpec, plan_features
from app.schemas.equipment import Equipment


class SensorFeatures(NamedTuple):
    """A window of a `FeatureBatch`, with the names of its sensors that are out of order."""

    x_STF: Floats
    mask_ST: NDArray[np.bool_]
    coverage_S: Floats
    usable_S: Floats
    exceedance_S: Floats
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    faulty: tuple[Fault, ...]


def window_of(batch: FeatureBatch, index: int, plan: FeaturePlan) -> SensorFeatures:
    """Return one window; `plan` is the one that the features were computed with."""
    coverage_S = batch.coverage_WS[index]
    return SensorFeatures(
        batch.x_WSTF[index],
        batch.mask_WST[index],
        coverage_S,
        batch.usable_WS[index],
        batch.exceedance_WS[index],
        missing=tuple(compress(plan.sensor_ids, coverage_S == 0.0)),
        unreferenced=tuple(compress(plan.sensor_ids, ~plan.referenced_S)),
        faulty=faults_of(batch.fault_WS[index], plan.sensor_ids),
    )


def window_features(values_SN: Floats, equipment: Equipment, spec: FeatureSpec) -> SensorFeatures:
    """Compute the features of one window, alone in its batch."""
    plan = plan_features(equipment, spec)
    check_shape(values_SN, plan, equipment.equipment_id)
    return window_of(batch_features(values_SN[None], plan), 0, plan)
