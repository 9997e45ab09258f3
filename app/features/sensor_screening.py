"""Screens the sensors of windows: which are at fault, how, since when, and what is left to blame.

First the tests of a sensor's own signal (`app.features.sensor_faults`), then, where the feature
spec has a sensor model of the design, the tests against what the others predict. A sensor at fault
is masked; one with dropouts is only reported, since the readings that it sends are right.
Shapes: W windows, S sensors, N bins, T steps, V components.
Invariant: equal bins and an equal spec give bitwise equal findings, alone and in any batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.features.sensor_faults import FAULT_REASONS
from app.features.sensor_kinds import (
    FAULT_KINDS,
    OTHER_UNITS,
    FaultKind,
    Instrument,
    NamedFault,
    find_spikes,
    longest_run,
    name_fault,
)
from app.features.sensor_model import SensorPlan
from app.features.sensor_tests import examine_sensors, odds_of
from app.features.spec import FeaturePlan
from app.features.window_summary import NUMBERS

FINDING = np.dtype(
    [("kind", np.uint8), ("since", np.int32), ("size", np.float32), ("score", np.float32)]
)
"""A sensor's fault: 1 + an index in `FAULT_KINDS`, 0 for none; the rest as in `NamedFault`; score,
how many times its limit the deviation from the others' prediction is, NaN where its own signal
shows the fault."""
DROPOUT_SHARE = 0.7
"""Part of its usual share of bins with readings below which a sensor drops out."""


class Screening(NamedTuple):
    """The outcome for W windows.

    Args:
        fault_WS: sensors to mask: 0, or 1 + an index in `FAULT_REASONS`.
        finding_WS: of dtype `FINDING`.
        unexplained_W: windows whose sensors contradict each other without a few being at fault.
        blame_WV: logarithm of the odds that a component is faulty rather than as new, by its
            signature in the sensors that are not masked; NaN without a signature.
    """

    fault_WS: NDArray[np.uint8]
    finding_WS: NDArray[np.void]
    unexplained_W: NDArray[np.bool_]
    blame_WV: Floats


class Finding(NamedTuple):
    """A sensor's fault in one window.

    Args:
        sensor_id: of the sensor.
        kind: of the fault.
        since: bin from which on it shows.
        size: see `NamedFault`; None where there is none.
        score: see `FINDING`; None where the sensor's own signal shows the fault.
        masked: whether the sensor is left out.
    """

    sensor_id: str
    kind: FaultKind
    since: int
    size: float | None
    score: float | None
    masked: bool


def findings_of(
    finding_S: NDArray[np.void], fault_S: NDArray[np.uint8], sensor_ids: Sequence[str]
) -> tuple[Finding, ...]:
    """Return the findings of one window in sensor order."""
    return tuple(
        Finding(
            sensor_ids[s],
            FAULT_KINDS[finding_S["kind"][s] - 1],
            int(finding_S["since"][s]),
            _known(finding_S["size"][s]),
            _known(finding_S["score"][s]),
            bool(fault_S[s]),
        )
        for s in np.flatnonzero(finding_S["kind"]).tolist()
    )


def _known(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def screen(
    values_WSN: Floats, coverage_WS: Floats, fault_WS: NDArray[np.uint8], plan: FeaturePlan
) -> Screening:
    """Screen the sensors of windows.

    Args:
        values_WSN: float32 bins, NaN where missing.
        coverage_WS: share of the bins that have readings.
        fault_WS: from `find_faults`.
        plan: of the windows' topology.
    """
    W, S, _ = values_WSN.shape
    finding_WS = np.zeros((W, S), FINDING)
    for w, s in np.argwhere(fault_WS).tolist():
        reason = FAULT_REASONS[fault_WS[w, s] - 1]
        named = _of_signal(reason, values_WSN[w, s], s, plan.rows(slice(w, w + 1)))
        _write(finding_WS, w, s, named, float("nan"))
    sensors = plan.sensors
    unexplained_W = np.zeros(W, np.bool_)
    blame_WV = np.full((W, plan.components), np.nan, np.float32)
    if sensors is None or not W:
        return Screening(fault_WS, finding_WS, unexplained_W, blame_WV)
    usual_ST = plan.usual_ST
    tested = examine_sensors(values_WSN, fault_WS != 0, usual_ST, sensors)
    if tested.accused:
        fault_WS = fault_WS.copy()
    for w, accused in tested.accused.items():
        for each in accused:
            s = int(sensors.sensor_S[each.sensor])
            instrument = Instrument(
                usual_ST[w, s] if usual_ST.ndim > 2 else usual_ST[s],
                float(sensors.floor_S[each.sensor]),
                plan.units[s],
                float(plan.low_S[s]),
                float(plan.high_S[s]),
            )
            named = name_fault(each, values_WSN[w, s], instrument)
            if fault_WS[w, s] == 0:
                fault_WS[w, s] = len(FAULT_REASONS)
            elif named.kind == "implausible" or (
                FAULT_REASONS[fault_WS[w, s] - 1] == "frozen" and named.kind != "out_of_range"
            ):
                continue  # its own signal says more
            _write(finding_WS, w, s, named, each.score)
    unexplained_W[list(tested.unexplained)] = True
    known_WS = coverage_WS[:, sensors.sensor_S]
    drops_WS = (known_WS > 0) & (known_WS < DROPOUT_SHARE * sensors.coverage_S)
    for w, place in np.argwhere(drops_WS).tolist():
        s = int(sensors.sensor_S[place])
        if not finding_WS[w, s]["kind"]:
            since = int(np.isnan(values_WSN[w, s]).argmax())
            _write(finding_WS, w, s, NamedFault("dropout", since), float("nan"))
    _blame(tested.deviation_WJ, sensors, blame_WV)
    return Screening(fault_WS, finding_WS, unexplained_W, blame_WV)


def _write(finding_WS: NDArray[np.void], w: int, s: int, fault: NamedFault, score: float) -> None:
    finding_WS[w, s] = (1 + FAULT_KINDS.index(fault.kind), fault.since, fault.size, score)


def _of_signal(reason: str, values_N: Floats, s: int, plan: FeaturePlan) -> NamedFault:
    """Name the fault that a sensor's own signal shows; the plan is that of the window."""
    if reason == "frozen":
        first, _ = longest_run(values_N)
        return NamedFault("stuck", first, float(values_N[first]))
    if reason == "noisy":
        # without a prediction a spike is one by the training window with the roughest signal
        roughness = float(plan.roughness_S[..., s].max())
        rough = np.full(len(NUMBERS), np.log(max(roughness, 1e-12)))
        spikes_N, height = find_spikes(values_N, rough, 0.0)
        few = 0 < spikes_N.sum() <= len(values_N) // 12
        kind: FaultKind = "spike" if few else "noise"
        since = int(spikes_N.argmax()) if few else 0
        return NamedFault(kind, since, height if few else float("nan"))
    beyond_N = (values_N < plan.low_S[s]) | (values_N > plan.high_S[s])
    since = int(beyond_N.argmax())
    if plan.referenced_S[..., s].all() and "mean" in plan.statistics:
        mean = plan.statistics.index("mean")
        low, high = plan.low_STF[..., s, :, mean].min(), plan.high_STF[..., s, :, mean].max()
        for factor, shift in OTHER_UNITS.get(plan.units[s], ()):
            middle = (float(np.nanmedian(values_N.astype(np.float64))) - shift) / factor
            if low <= middle <= high:
                return NamedFault("unit_swap", 0, factor)
    return NamedFault("out_of_range", since)


def _blame(deviation_WJ: Doubles, plan: SensorPlan, blame_WV: Floats) -> None:
    """Write the evidence against each component; see `odds_of`."""
    if not len(plan.component_A):
        return
    for w, deviation_J in enumerate(deviation_WJ):
        blame_WV[w] = odds_of(deviation_J, plan)
    blame_WV[:, ~plan.has_signature_V] = np.nan
