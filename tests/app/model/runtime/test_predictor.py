"""Passes of a bounded size, and what is joined with the network's outputs."""

import numpy as np
import pytest

from app.core.errors import LimitExceeded, WindowError
from app.features.binning import Floats
from app.model.graph import Contributions, GraphGroup, SkipOutput
from app.model.runtime.gate import warm_up_group
from app.model.runtime.predictor import PassTooLarge, Predictor
from app.model.runtime.torch_runner import TorchRunner
from app.model.trained import TrainedModel
from tests.graphs import assert_close, predict, with_topology
from tests.small import small


class Watched:
    """A runner that notes the windows of its passes, and whose memory ends above so many."""

    name = "watched"

    def __init__(self, model: TrainedModel, windows: int = 1000) -> None:
        self._runner, self._windows = TorchRunner(model.ensemble), windows
        self.passes: list[int] = []

    def run(self, group: GraphGroup, skip: SkipOutput) -> tuple[Floats, ...]:
        self.passes.append(group.windows)
        if group.windows > self._windows:
            raise PassTooLarge("no memory left")
        return self._runner.run(group, skip)


def watched(most: int = 1000, max_cells: int = 44_000) -> tuple[Predictor, Watched, TrainedModel]:
    model = small().model
    runner = Watched(model, most)
    predictor = Predictor(model.config, runner, model.skip, model.detector, max_cells)
    return predictor, runner, model


def test_many_windows_run_in_passes_under_the_cap() -> None:
    group = warm_up_group(small().config, 7)
    predictor, runner, model = watched(max_cells=2 * group.window_cells)
    assert_close(predictor.predict([group])[0], predict(model, group), 1e-5)
    assert runner.passes == [2, 2, 2, 1]


def test_window_above_the_cap_runs_alone() -> None:
    predictor, runner, _ = watched(max_cells=1)
    predictor.predict([warm_up_group(predictor.config, 3)])
    assert runner.passes == [1, 1, 1]


def test_pass_for_which_memory_ends_is_halved() -> None:
    predictor, runner, model = watched(most=2)
    group = warm_up_group(predictor.config, 6)
    assert_close(predictor.predict([group])[0], predict(model, group), 1e-5)
    assert runner.passes == [6, 3, 1, 2, 3, 1, 2]


def test_window_that_alone_ends_the_memory_is_refused() -> None:
    predictor, _, _ = watched(most=0)
    with pytest.raises(LimitExceeded, match=r"found \d+ sensors x \d+ steps: use fewer steps"):
        predictor.predict([warm_up_group(predictor.config, 2)])


def test_groups_of_one_topology_share_a_pass() -> None:
    predictor, runner, model = watched()
    ring = warm_up_group(predictor.config, 5)
    other = with_topology(ring, {"component_type_V": np.zeros(8, np.int64)}).take([0, 1])
    groups = [ring.take([0, 1]), other, ring.take([2, 3, 4])]
    found = predictor.predict(groups)
    assert sorted(runner.passes) == [2, 5]
    for group, prediction in zip(groups, found, strict=True):
        assert_close(prediction, predict(model, group), 1e-5)


def test_groups_of_other_steps_are_predicted_apart_and_in_order() -> None:
    predictor, runner, model = watched()
    ring = warm_up_group(predictor.config, 2)
    shorter = GraphGroup(ring.topology, ring.x_WSTF[:, :, 1:], ring.mask_WST[:, :, 1:])
    found = predictor.predict([ring, shorter, ring])
    assert sorted(runner.passes) == [2, 4]
    assert_close(found[1], predict(model, shorter), 1e-5)


def test_features_of_another_spec_are_refused() -> None:
    predictor, _, _ = watched()
    ring = warm_up_group(predictor.config, 1)
    other = GraphGroup(ring.topology, ring.x_WSTF[..., :2], ring.mask_WST)
    with pytest.raises(WindowError, match="features of a sensor, found 2"):
        predictor.predict([other])


def test_contributions_in_parts_are_those_at_once() -> None:
    predictor, _, model = watched(max_cells=1)
    window = warm_up_group(predictor.config, 1)
    found = list(predictor.contributions(window))
    (whole,) = model.predictor().contributions(window)
    assert len(found) == window.topology.sensors
    np.testing.assert_allclose(Contributions.merge(found).health_VS, whole.health_VS, atol=1e-6)
