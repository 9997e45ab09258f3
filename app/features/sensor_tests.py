"""Tests each sensor of a window against what the others predict, before a component is blamed.

The summary of each sensor is predicted from those of all others (`app.features.sensor_model`). Of
the deviation three squares are tested: of all numbers, of those beside level and trend, and of the
level alone. The sensor whose square exceeds its limit most is masked first, and the others are
predicted again without it, until no square exceeds its limit. A window that needs more than a
fifth of its sensors masked is unlike training as a whole; none of its sensors is accused.
Shapes: W windows, S sensors, Y numbers, J = S x Y, K masked sensors.
Invariant: a window's outcome does not depend on other windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.features.sensor_model import TESTS, SensorPlan, Y, inverse
from app.features.window_summary import summarise

MOST_ACCUSED = 0.2
"""Share of the sensors that are accused at most, at least one."""
NEARLY = 0.999
"""Part of a limit from which a window is examined; the examination decides."""
Integers = NDArray[np.int64]


class Accused(NamedTuple):
    """A sensor that the others contradict, or one that was known to be faulty.

    Args:
        sensor: its position among those of the plan.
        score: its largest square over the limit, above 1; NaN of one that was known to be faulty.
        summary_Y: its numbers.
        predicted_Y: what the sensors that are not masked predict, in units of the summary.
        precision_YY: of the deviation, in the same units.
    """

    sensor: int
    score: float
    summary_Y: Doubles
    predicted_Y: Doubles
    precision_YY: Doubles


@dataclass(frozen=True, slots=True)
class Tested:
    """The outcome for W windows.

    Args:
        accused: by window, those with any.
        unexplained: windows whose sensors contradict each other without a few being at fault.
        deviation_WJ: summaries less the centre, in scales; of sensors without one, or accused,
            what the others predict.
    """

    accused: dict[int, Sequence[Accused]]
    unexplained: frozenset[int]
    deviation_WJ: Doubles


def examine_sensors(
    values_WSN: Floats, is_out_WS: NDArray[np.bool_], usual_ST: Doubles, plan: SensorPlan
) -> Tested:
    """Test the sensors that the plan knows.

    Args:
        values_WSN: bins of all sensors of the machine, NaN where missing.
        is_out_WS: sensors that are known to be faulty; they are masked, and among the accused.
        usual_ST: mean of each step in the reference of each sensor; may have an axis of windows.
        plan: of the machine.
    """
    summary_WSY = summarise(
        values_WSN[:, plan.sensor_S], usual_ST[..., plan.sensor_S, :], plan.floor_S
    )
    deviation_WSY = (summary_WSY - plan.centre_SY) / plan.scale_SY
    is_masked_WS = is_out_WS[:, plan.sensor_S] | ~np.isfinite(deviation_WSY).all(-1)
    np.copyto(deviation_WSY, 0.0, where=is_masked_WS[..., None])
    W, S, _ = deviation_WSY.shape
    deviation_WJ = deviation_WSY.reshape(W, S * Y)
    # one product a window: the rounding of a larger one would depend on the number of windows
    force_WSY = np.stack([plan.precision_JJ @ each_J for each_J in deviation_WJ]).reshape(W, S, Y)
    excess_WS = _excess(force_WSY, plan.weight_SYY, plan.shape_SYY, plan.level_S, plan)
    accused: dict[int, Sequence[Accused]] = {}
    unexplained = set()
    suspect_W = is_masked_WS.any(1) | (excess_WS > NEARLY).any(1)
    for w in np.flatnonzero(suspect_W).tolist():
        found = _examine(summary_WSY[w], deviation_WJ[w], is_masked_WS[w], plan)
        if found is None:
            unexplained.add(w)
        elif found:
            accused[w] = found
    return Tested(accused, frozenset(unexplained), deviation_WJ)


class _Remainder(NamedTuple):
    """The sensors that are not masked, predicted from each other.

    Args:
        deviation_J: with the masked sensors as the others predict them.
        own_SYY: precision of each sensor's numbers given the others.
        covariance_KK: of the masked numbers given the others.
    """

    deviation_J: Doubles
    own_SYY: Doubles
    force_SY: Doubles
    covariance_KK: Doubles


def _without(deviation_J: Doubles, masked: Integers, plan: SensorPlan) -> _Remainder:
    """Leave sensors out, by the Schur complement of their part of the precision."""
    S = len(plan.sensor_S)
    place_K = (masked[:, None] * Y + np.arange(Y)).reshape(-1)
    own_SYY = inverse(plan.weight_SYY)
    covariance_KK = np.empty((0, 0))
    filled_J = deviation_J.copy()
    if len(place_K):
        covariance_KK = inverse(plan.precision_JJ[np.ix_(place_K, place_K)])
        across_KJ = plan.precision_JJ[place_K].copy()
        across_KJ[:, place_K] = 0.0
        filled_J[place_K] = -covariance_KK @ (across_KJ @ deviation_J)
        across_SYK = across_KJ.reshape(-1, S, Y).transpose(1, 2, 0)
        own_SYY = own_SYY - across_SYK @ covariance_KK @ across_SYK.transpose(0, 2, 1)
    force_SY = (plan.precision_JJ @ filled_J).reshape(S, Y)
    force_SY[masked] = 0.0
    return _Remainder(filled_J, own_SYY, force_SY, covariance_KK)


def _examine(
    summary_SY: Doubles, deviation_J: Doubles, is_masked_S: NDArray[np.bool_], plan: SensorPlan
) -> list[Accused] | None:
    """Return the accused sensors of a window, None if there would be too many.

    Writes what the others predict for the masked sensors to `deviation_J`.
    """
    S = len(plan.sensor_S)
    given = np.flatnonzero(is_masked_S)
    most = max(1, int(MOST_ACCUSED * S))
    scores: dict[int, float] = {}
    if S - len(given) < 3:
        return []
    while True:
        masked = np.array([*given.tolist(), *scores], np.int64)
        rest = _without(deviation_J, masked, plan)
        excess_S = _excess_of(rest, plan)
        excess_S[masked] = 0.0
        worst = int(excess_S.argmax())
        if excess_S[worst] <= 1.0:
            break
        if len(scores) == most or S - len(masked) <= 3:
            return None
        scores[worst] = float(excess_S[worst])
    found = []
    for number, sensor in enumerate(masked.tolist()):
        if not np.isfinite(summary_SY[sensor]).all():
            continue
        own = slice(number * Y, (number + 1) * Y)
        scale_Y = plan.scale_SY[sensor]
        predicted_Y = rest.deviation_J[sensor * Y : (sensor + 1) * Y]
        found.append(
            Accused(
                sensor,
                scores.get(sensor, float("nan")),
                summary_SY[sensor],
                plan.centre_SY[sensor] + scale_Y * predicted_Y,
                inverse(rest.covariance_KK[own, own]) / np.outer(scale_Y, scale_Y),
            )
        )
    deviation_J[:] = rest.deviation_J
    return found


def _excess_of(rest: _Remainder, plan: SensorPlan) -> Doubles:
    excess_S: Doubles = _excess(
        rest.force_SY[None],
        inverse(rest.own_SYY),
        inverse(rest.own_SYY[:, 2:, 2:]),
        1.0 / rest.own_SYY[:, 0, 0],
        plan,
    )[0]
    return excess_S


def squares(
    force_WSY: Doubles, weight_SYY: Doubles, shape_SYY: Doubles, level_S: Doubles
) -> Doubles:
    """Return the squares of `TESTS`, [W, S, 3].

    Args:
        force_WSY: precision times deviation.
        weight_SYY: see `SensorPlan`.
        shape_SYY: likewise.
        level_S: likewise.
    """
    shape_WSY = force_WSY[..., 2:]
    found_WSQ = np.empty((*force_WSY.shape[:2], len(TESTS)))
    for place, (each_WSY, each_SYY) in enumerate(((force_WSY, weight_SYY), (shape_WSY, shape_SYY))):
        # sums of products one by one: the rounding does not depend on the number of windows
        product_WSY = np.einsum("wsy,syz->wsz", each_WSY, each_SYY)
        found_WSQ[..., place] = np.einsum("wsz,wsz->ws", product_WSY, each_WSY)
    found_WSQ[..., 2] = force_WSY[..., 0] ** 2 * level_S
    return found_WSQ


def _excess(
    force_WSY: Doubles,
    weight_SYY: Doubles,
    shape_SYY: Doubles,
    level_S: Doubles,
    plan: SensorPlan,
) -> Doubles:
    found_WSQ = squares(force_WSY, weight_SYY, shape_SYY, level_S)
    excess_WS: Doubles = (found_WSQ / plan.limit_SQ).max(-1)
    return excess_WS
