"""Windows to scores: group by structure, build graphs, score them, and retry alone what fails.

Online serving and offline scoring share this pipeline, and the form of a diagnosis in the store.
They differ in the `build` and `score` that they pass to `score_windows`. Every window gets scores
or an error; a window that fails does not affect the others.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np

from app.core.errors import HydraulicDiagnosticsError, VersionBusy
from app.diagnosis.build import Scores
from app.diagnosis.decoder import window_predictions
from app.diagnosis.input_quality import QualityBatch, WindowQuality
from app.diagnosis.window_plan import WindowPlan, build_windows
from app.features.binning import Floats, window_digest
from app.features.extraction import check_shape
from app.model.graph import Contributions, GraphGroup, Prediction
from app.schemas.diagnosed_input import UsedBaseline
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment
from app.store.baselines import StoredBaseline
from app.store.diagnoses import StoredDiagnosis
from app.store.windows import StoredWindow, decode_window

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_VALUES_AT_ONCE = 4_000_000
"""Sensors times bins of the windows that are decoded together; bounds memory for large windows."""


class WindowInput(NamedTuple):
    """One window of one machine.

    Args:
        equipment: the machine.
        readings: a window of the store, not decoded; or means of inline readings in bins, [S, N]
            float32 in the order of `Equipment.sensors`, NaN where missing.
        baseline: of the machine; None without one.
    """

    equipment: Equipment
    readings: StoredWindow | Floats
    baseline: StoredBaseline | None = None

    @property
    def baseline_id(self) -> str:
        """Return the id of the baseline; empty without one."""
        return self.baseline.baseline_id if self.baseline is not None else ""

    @property
    def used_baseline(self) -> UsedBaseline | None:
        """Return the baseline as the diagnosis names it."""
        found = self.baseline
        return None if found is None else UsedBaseline(found.baseline_id, found.start, found.end)


class WindowGroup(NamedTuple):
    """Windows of machines that differ only in id and name, or of one machine with a baseline.

    Args:
        structure_digest: of the machines, see `Equipment.structure_digest`.
        baseline_id: of the machine's baseline; empty without one.
        sensors: S.
        bins: of a window.
        steps: T.
        positions: of the windows in the call.
        equipment_ids: of the windows' machines.
        readings: of the windows, as in `WindowInput`.
    """

    structure_digest: str
    baseline_id: str
    sensors: int
    bins: int
    steps: int
    positions: list[int]
    equipment_ids: list[str]
    readings: list[StoredWindow | Floats]

    def rows(self, rows: slice) -> "WindowGroup":
        """Return the group of these rows alone."""
        return self._replace(
            positions=self.positions[rows],
            equipment_ids=self.equipment_ids[rows],
            readings=self.readings[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class BuiltGroup:
    """The graphs of a group's windows.

    Args:
        positions: of the windows in the call.
        graph: of the windows, in this order.
        quality: of their input.
        digests: of their bins.
    """

    positions: Sequence[int]
    graph: GraphGroup
    quality: QualityBatch
    digests: Sequence[str]


class BuildResult(NamedTuple):
    """Graphs by group, and the error of each window that has none, by its position in the call."""

    groups: Sequence[BuiltGroup]
    errors: Mapping[int, HydraulicDiagnosticsError]


class ScoreResult(NamedTuple):
    """A model's predictions for the groups of a call.

    Args:
        predictions: one a group.
        contributions: of the sensors, for each window of each group; empty unless requested.
    """

    predictions: Sequence[Prediction]
    contributions: Sequence[Sequence[Contributions]] = ()


class ScoredWindow(NamedTuple):
    """What a diagnosis is made from.

    Args:
        scores: of the machine's components.
        quality: of the input.
        input_digest: SHA-256 of the window's bins.
    """

    scores: Scores
    quality: WindowQuality
    input_digest: str


class _Part(NamedTuple):
    """Built windows that are scored together; rows of the graph are in the order of `positions`."""

    positions: Sequence[int]
    graph: GraphGroup
    qualities: Sequence[WindowQuality]
    digests: Sequence[str]

    def singles(self) -> "Iterable[_Part]":
        """Yield each window as a part of its own."""
        for row in range(len(self.positions)):
            one = slice(row, row + 1)
            yield _Part(
                self.positions[one], self.graph.take(one), self.qualities[one], self.digests[one]
            )


Build = Callable[[Sequence[WindowGroup]], Awaitable[BuildResult]]
Score = Callable[[Sequence[GraphGroup]], Awaitable[ScoreResult]]
PlanOf = Callable[[WindowGroup], WindowPlan]


async def score_windows(
    windows: Sequence[WindowInput], build: Build, score: Score
) -> list[ScoredWindow | Exception]:
    """Score windows in one call to `build` and one to `score`.

    When `score` fails, each window is scored alone, so that only the windows that cause the
    failure fail. A call that timed out is not repeated.

    Args:
        windows: of any machines.
        build: makes graphs; its errors are raised.
        score: predicts for groups of graphs; its errors become those of the windows.

    Returns:
        For each window its scores or its error.
    """
    built = await build(group_windows(windows))
    parts = [
        _Part(
            group.positions,
            group.graph,
            group.quality.windows(windows[group.positions[0]].equipment.sensor_ids),
            group.digests,
        )
        for group in built.groups
    ]
    outcomes: dict[int, ScoredWindow | Exception] = {**built.errors}
    if parts:
        outcomes |= await _score_parts(parts, score)
    return [outcomes[position] for position in range(len(windows))]


def group_windows(windows: Sequence[WindowInput]) -> list[WindowGroup]:
    """Group windows by the structure of their machines and by their baselines."""
    groups: dict[tuple[str, str], WindowGroup] = {}
    for position, window in enumerate(windows):
        equipment, readings, _ = window
        key = (equipment.structure_digest, window.baseline_id)
        group = groups.get(key)
        if group is None:
            sizes = len(equipment.sensors), equipment.bins, equipment.steps
            group = groups[key] = WindowGroup(*key, *sizes, [], [], [])
        group.positions.append(position)
        group.equipment_ids.append(equipment.equipment_id)
        group.readings.append(readings)
    return list(groups.values())


def build_groups(groups: Sequence[WindowGroup], plan_of: PlanOf) -> BuildResult:
    """Build the graphs of each group at once; the windows of a group that fails are built alone.

    Args:
        groups: windows by structure.
        plan_of: returns the plan of a group's structure.
    """
    built: list[BuiltGroup] = []
    errors: dict[int, HydraulicDiagnosticsError] = {}
    for group in groups:
        plan = _attempt(partial(plan_of, group), group.equipment_ids[0])
        if isinstance(plan, HydraulicDiagnosticsError):
            errors |= dict.fromkeys(group.positions, plan)
            continue
        at_once = max(1, MAX_VALUES_AT_ONCE // max(1, group.sensors * group.bins))
        for start in range(0, len(group.positions), at_once):
            built += _build(group.rows(slice(start, start + at_once)), plan, errors)
    return BuildResult(built, errors)


def row_of(diagnosis: Diagnosis, body: bytes) -> StoredDiagnosis:
    """Return the row of a diagnosis in the store.

    Args:
        diagnosis: to store.
        body: the same as JSON.
    """
    return StoredDiagnosis(
        diagnosis.diagnosis_id,
        diagnosis.created_at,
        diagnosis.equipment_id,
        diagnosis.window.start,
        diagnosis.window.end,
        diagnosis.model_version,
        diagnosis.status,
        diagnosis.health,
        body.decode(),
    )


def _build(
    group: WindowGroup, plan: WindowPlan, errors: dict[int, HydraulicDiagnosticsError]
) -> list[BuiltGroup]:
    outcome = _attempt(partial(_build_together, group, plan), group.equipment_ids[0])
    if isinstance(outcome, BuiltGroup):
        return [outcome]
    if len(group.positions) == 1:
        errors[group.positions[0]] = outcome
        return []
    singles = (group.rows(slice(row, row + 1)) for row in range(len(group.positions)))
    return list(chain.from_iterable(_build(single, plan, errors) for single in singles))


def _build_together(group: WindowGroup, plan: WindowPlan) -> BuiltGroup:
    values = []
    for equipment_id, readings in zip(group.equipment_ids, group.readings, strict=True):
        values_SN = (
            decode_window(readings, plan.equipment)
            if isinstance(readings, StoredWindow)
            else readings
        )
        check_shape(values_SN, plan.features, equipment_id)
        values.append(values_SN)
    graph, quality = build_windows(np.stack(values), plan)
    return BuiltGroup(group.positions, graph, quality, [*map(window_digest, values)])


def _attempt(make: Callable[[], T], equipment_id: str) -> T | HydraulicDiagnosticsError:
    """Return what `make` returns, or its error as the project's own."""
    try:
        return make()
    except HydraulicDiagnosticsError as error:
        return error
    except Exception as error:
        # one window must not fail the others, and only here is known which one it is
        logger.exception("window not built", extra={"equipment_id": equipment_id})
        return HydraulicDiagnosticsError(
            f"expected a graph of '{equipment_id}', found an internal error "
            f"({type(error).__name__}): report it with the topology"
        )


async def _score_parts(parts: Sequence[_Part], score: Score) -> dict[int, ScoredWindow | Exception]:
    try:
        result = await score([part.graph for part in parts])
    except Exception as error:  # noqa: BLE001 - becomes the error of the windows that cause it
        singles = [single for part in parts for single in part.singles()]
        is_late = isinstance(error, VersionBusy) or isinstance(error.__cause__, TimeoutError)
        if len(singles) == 1 or is_late:
            return {single.positions[0]: error for single in singles}
        if not isinstance(error, HydraulicDiagnosticsError):
            logger.warning("windows not scored together", extra={"error": type(error).__name__})
        alone = await asyncio.gather(*(_score_parts([single], score) for single in singles))
        return {position: outcome for part in alone for position, outcome in part.items()}
    outcomes: dict[int, ScoredWindow | Exception] = {}
    for number, (part, prediction) in enumerate(zip(parts, result.predictions, strict=True)):
        predicted = window_predictions(prediction)
        for row, position in enumerate(part.positions):
            contributions = result.contributions[number][row] if result.contributions else None
            outcomes[position] = ScoredWindow(
                Scores(predicted[row], contributions), part.qualities[row], part.digests[row]
            )
    return outcomes
