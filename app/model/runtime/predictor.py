"""Groups of windows to predictions: the network by a runner, skip and OOD distance in numpy.

Windows of one topology are run together in passes of a bounded size. Invariant: a prediction does
not depend on how the windows were divided into passes, but for rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from app.core.errors import LimitExceeded, WindowError
from app.features.binning import Floats
from app.model.config import ModelConfig
from app.model.graph import Contributions, GraphGroup, Prediction, SkipOutput
from app.model.ood_detector import OodDetector
from app.model.skip import LinearSkip

MAX_CELLS = 44_000
"""`GraphGroup.cells` of one pass, 99 windows of the rig; bounds its memory and time.

A larger window runs alone."""


class PassTooLarge(Exception):
    """A pass did not fit into the device's memory."""


class NetworkRunner(Protocol):
    """Executes the ensemble; see `app.model.runtime.onnx_runner` and `torch_runner`."""

    name: str
    """As logged, such as `onnxruntime float32 x1`."""

    def run(self, group: GraphGroup, skip: SkipOutput) -> tuple[Floats, ...]:
        """Return the arrays of `app.model.network.NetworkOutput` for a group and its skip.

        Raises:
            PassTooLarge: the group does not fit into the device's memory.
        """
        ...


class Predictor:
    """A model that serves.

    Args:
        config: of the model.
        runner: executes the network.
        skip: None for a model without one.
        detector: None for a model without one.
        max_cells: of a pass that has more than one window.
    """

    def __init__(
        self,
        config: ModelConfig,
        runner: NetworkRunner,
        skip: LinearSkip | None = None,
        detector: OodDetector | None = None,
        max_cells: int = MAX_CELLS,
    ) -> None:
        self.config = config
        self._runner = runner
        self._skip = skip
        self._detector = detector
        self._max_cells = max_cells
        # the last row, which the number -1 means, is that of components without a set
        grades_G = np.array([*map(len, config.grade_sets), 0])
        self._is_beyond_GK = np.arange(config.grades) >= grades_G[:, None]

    @property
    def name(self) -> str:
        """Return how the network is executed, as logged."""
        return self._runner.name

    def predict(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        """Predict all windows of a call; groups of one topology and number of steps share passes.

        Args:
            groups: at least one window each.

        Returns:
            One prediction a group, in order.

        Raises:
            WindowError: a group has another number of features than the model.
            LimitExceeded: one window alone does not fit into the device's memory.
        """
        alike: dict[object, list[int]] = {}
        for position, group in enumerate(groups):
            if group.x_WSTF.shape[3] != self.config.features:
                raise WindowError(
                    f"expected {self.config.features} features of a sensor, found "
                    f"{group.x_WSTF.shape[3]}: build the graphs with this version's feature spec"
                )
            alike.setdefault((group.topology, group.steps), []).append(position)
        found: list[Prediction | None] = [None] * len(groups)
        for positions in alike.values():
            if len(positions) == 1:
                found[positions[0]] = self._predict(groups[positions[0]])
                continue
            together = self._predict(GraphGroup.merge([groups[each] for each in positions]))
            start = 0
            for position in positions:
                end = start + groups[position].windows
                found[position] = together.take(slice(start, end))
                start = end
        return [each for each in found if each is not None]

    def contributions(self, group: GraphGroup) -> Iterator[Contributions]:
        """Measure what each sensor contributes by leaving it out (Zeiler and Fergus, 2014).

        Args:
            group: one window.

        Yields:
            [V, S of the part]: sensors in order, in parts that fit into one pass.

        Raises:
            ValueError: the group holds more than one window.
        """
        if group.windows != 1:
            raise ValueError(f"expected one window, found {group.windows}: explain one at a time")
        S = group.topology.sensors
        whole = self._predict(group)
        at_once = max(1, self._max_cells // group.cells)
        for first in range(0, S, at_once):
            left_out = range(first, min(first + at_once, S))
            without = self._predict(
                GraphGroup.merge([group.without_sensor(sensor) for sensor in left_out])
            )
            with np.errstate(invalid="ignore"):  # infinite with and without
                distance_VS = (whole.distance_WV - without.distance_WV).T
            yield Contributions((without.health_WV - whole.health_WV).T, distance_VS)

    def _predict(self, group: GraphGroup) -> Prediction:
        at_once = max(1, self._max_cells // group.window_cells)
        if group.windows <= at_once:
            return self._pass(group)
        starts = range(0, group.windows, at_once)
        return Prediction.merge([self._pass(group.take(slice(a, a + at_once))) for a in starts])

    def _pass(self, group: GraphGroup) -> Prediction:
        try:
            probability_WVK, *heads = self._runner.run(group, self._skipped(group))
        except PassTooLarge as error:
            if group.windows == 1:
                raise LimitExceeded(
                    "expected a graph that fits into the device's memory, found "
                    f"{group.topology.sensors} sensors x {group.steps} steps: use fewer steps"
                ) from error
            middle = group.windows // 2
        else:
            beyond_VK = self._is_beyond_GK[group.topology.grade_set_V]
            known_WVK = np.where(beyond_VK, np.float32(np.nan), probability_WVK)
            return Prediction._make((known_WVK, *heads, self._distance(group)))
        # outside of the handler, whose traceback holds the failed pass's memory
        halves = (group.take(slice(0, middle)), group.take(slice(middle, None)))
        return Prediction.merge([self._pass(half) for half in halves])

    def _skipped(self, group: GraphGroup) -> SkipOutput:
        if self._skip is None:
            return SkipOutput.none(group.windows, group.topology.components)
        return self._skip.output(group)

    def _distance(self, group: GraphGroup) -> Floats:
        if self._detector is None:
            return np.full((group.windows, group.topology.components), np.nan, np.float32)
        return self._detector.distance(group)
