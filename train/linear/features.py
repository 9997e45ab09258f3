"""Features of training windows, as the closed-form fits of this package read them."""

import numpy as np

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import FeatureSpec
from train.data.labels import Booleans, Integers
from train.data.machine_baselines import plan_machines
from train.data.windows import Windows


def read_features(
    windows: Windows, taken_W: Integers, spec: FeatureSpec
) -> tuple[Floats, Booleans]:
    """Return features, and which sensors are present in all steps.

    Args:
        windows: of a design.
        taken_W: rising positions of those to read.
        spec: of their features.
    """
    plan, machine_W = plan_machines(windows, spec), windows.labels.machine_W
    parts = [
        batch_features(values_BSN, plan.rows(machine_W[position_B]))
        for position_B, values_BSN in windows.batches(taken_W)
    ]
    return (
        np.concatenate([part.x_WSTF for part in parts]),
        np.concatenate([part.mask_WST.all(2) for part in parts]),
    )
