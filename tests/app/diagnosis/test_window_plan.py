"""Windows of one topology by a plan: independence, and a topology that cannot fit."""

import numpy as np
import pytest

from app.core.errors import WindowError
from app.diagnosis.window_plan import build_windows, plan_windows
from app.model.graph import build_topology
from app.schemas.equipment import Equipment
from tests.features import window_features
from tests.small import small, wave


def test_windows_built_together_are_what_each_is_alone() -> None:
    made = small()
    values_WSN = wave(5, 4, seed=3)
    plan = plan_windows(made.equipment, made.spec)
    graph, quality = build_windows(values_WSN, plan)
    features = [window_features(each, made.equipment, made.spec) for each in values_WSN]
    np.testing.assert_array_equal(graph.x_WSTF, np.stack([each.x_STF for each in features]))
    np.testing.assert_array_equal(graph.mask_WST, np.stack([each.mask_ST for each in features]))
    assert graph.topology == build_topology(made.equipment, made.spec)
    for mine, values_SN in zip(quality.windows(made.equipment.sensor_ids), values_WSN, strict=True):
        _, alone = build_windows(values_SN[None], plan)
        (expected,) = alone.windows(made.equipment.sensor_ids)
        np.testing.assert_equal(mine._asdict(), expected._asdict())


def test_topology_that_no_window_can_fit_is_refused_with_the_plan() -> None:
    made = small()
    other = Equipment.model_validate(made.equipment.model_dump() | {"steps": 2})
    with pytest.raises(WindowError, match="give the equipment"):
        plan_windows(other, made.spec)
