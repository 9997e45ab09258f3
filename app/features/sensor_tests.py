"""Tests each sensor of a window against what the others predict, before a component is blamed.

The summary of each sensor is predicted from those of all others (`app.features.sensor_model`). Of
the deviation three squares are tested: of all numbers, of those beside level and trend, and of the
level alone. They are tested with the Gaussian of all training windows, and, where all other sensors
look as new, with that of machines as new, less what the fault of a component explains. The sensor
whose square exceeds its limit most is masked first, and the others are predicted again without it,
until no square exceeds its limit. A window that needs more than a fifth of its sensors masked is
unlike training as a whole; none of its sensors is accused.
Shapes: W windows, S sensors, Y numbers, J = S x Y, K numbers of masked sensors, G Gaussians, Q
tests, V components.
Invariant: a window's outcome does not depend on other windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.features.sensor_model import (
    FEWEST_SENSORS,
    TESTS,
    JointPlan,
    SensorPlan,
    Y,
    inverse,
    own_blocks,
)
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
        score: its largest square over the limit, above 1, see `JointPlan`; NaN of one that was
            known to be faulty.
        summary_Y: its numbers.
        predicted_Y: what the sensors that are not masked predict, with the Gaussian that accuses
            it, in units of the summary.
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
    deviation_WJ = deviation_WSY.reshape(len(deviation_WSY), -1)
    excess_WS = np.zeros(is_masked_WS.shape)
    for joint in plan.joints:
        evidence_W = np.array([_evidence(each_J, plan, joint) for each_J in deviation_WJ])
        np.maximum(excess_WS, excess_of(deviation_WJ, joint, evidence_W), out=excess_WS)
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
        force_SY: precision times deviation from the centre.
        covariance_KK: of the masked numbers given the others.
        total: square of all sensors that are not masked.
    """

    deviation_J: Doubles
    own_SYY: Doubles
    force_SY: Doubles
    covariance_KK: Doubles
    total: float


def _without(deviation_J: Doubles, masked: Integers, joint: JointPlan) -> _Remainder:
    """Leave sensors out, by the Schur complement of their part of the precision."""
    S = len(joint.level_S)
    place_K = (masked[:, None] * Y + np.arange(Y)).reshape(-1)
    own_SYY = own_blocks(joint.precision_JJ)
    covariance_KK = np.empty((0, 0))
    apart_J = deviation_J - joint.centre_J
    if len(place_K):
        covariance_KK = inverse(joint.precision_JJ[np.ix_(place_K, place_K)])
        across_KJ = joint.precision_JJ[place_K].copy()
        across_KJ[:, place_K] = 0.0
        apart_J[place_K] = -covariance_KK @ (across_KJ @ apart_J)
        across_SYK = across_KJ.reshape(-1, S, Y).transpose(1, 2, 0)
        own_SYY = own_SYY - across_SYK @ covariance_KK @ across_SYK.transpose(0, 2, 1)
    force_SY = (joint.precision_JJ @ apart_J).reshape(S, Y)
    force_SY[masked] = 0.0
    total = float(force_SY.reshape(-1) @ apart_J)
    return _Remainder(apart_J + joint.centre_J, own_SYY, force_SY, covariance_KK, total)


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
    joint_of = dict.fromkeys(given.tolist(), 0)
    while True:
        masked = np.array(list(joint_of), np.int64)
        rests = [_without(deviation_J, masked, joint) for joint in plan.joints]
        if not scores:
            # also where no sensor is accused in the end
            deviation_J[:] = rests[0].deviation_J
        if S - len(masked) < FEWEST_SENSORS:
            return None if scores else []
        excess_GS = np.stack(
            [
                _excess_without(
                    rest, joint, _evidence(rest.deviation_J, plan, joint), S - len(masked)
                )
                for rest, joint in zip(rests, plan.joints, strict=True)
            ]
        )
        excess_GS[:, masked] = 0.0
        number, worst = np.unravel_index(int(excess_GS.argmax()), excess_GS.shape)
        if not excess_GS[number, worst] > 1.0:
            break
        if len(scores) == most or S - len(masked) <= FEWEST_SENSORS:
            return None
        scores[int(worst)] = float(excess_GS[number, worst])
        joint_of[int(worst)] = int(number)
    found = []
    for place, (sensor, number_of_joint) in enumerate(joint_of.items()):
        if not np.isfinite(summary_SY[sensor]).all():
            continue
        rest, own = rests[number_of_joint], slice(place * Y, (place + 1) * Y)
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
    deviation_J[:] = rests[0].deviation_J
    return found


def _excess_without(rest: _Remainder, joint: JointPlan, evidence: float, left: int) -> Doubles:
    """Return how many times its limit the largest square of each of `left` sensors is, [S]."""
    square_SQ = squares(
        rest.force_SY[None],
        inverse(rest.own_SYY),
        inverse(rest.own_SYY[:, 2:, 2:]),
        1.0 / rest.own_SYY[:, 0, 0],
    )[0]
    share = (left - 1) / (len(joint.level_S) - 1)
    found_S: Doubles = _beyond(
        square_SQ[None], np.array([rest.total]), joint, np.array([evidence]), share
    )[0]
    return found_S


def odds_of(deviation_J: Doubles, plan: SensorPlan) -> Doubles:
    """Return the logarithm of the odds that a component is faulty rather than as new, [V].

    On the whitened axes of its signature a faulty component has variance 1 + v where one as new has
    1; the logarithm of the odds of both is the sum of (v / (1 + v) a^2 - log(1 + v)) / 2. It is 0
    without a signature.

    Args:
        deviation_J: summaries less the centre, in scales.
        plan: of the machine.
    """
    along_A = deviation_J @ plan.axes_JA - plan.offset_A
    odds_A = 0.5 * (plan.gain_A * along_A**2 - plan.cost_A)
    found_V: Doubles = np.bincount(plan.component_A, odds_A, plan.components).astype(np.float64)
    return found_V


def _evidence(deviation_J: Doubles, plan: SensorPlan, joint: JointPlan) -> float:
    """Return by what the fault of the component that explains a window best lowers its square.

    It is taken off the square of every sensor, although it comes from all of them: a sensor that
    alone shows a component's fault is hardly tested. It is 0 in the Gaussian that has worn
    machines.
    """
    if joint.rest_S is None:
        return 0.0
    return 2.0 * float(odds_of(deviation_J, plan).max(initial=0.0))


def squares(
    force_WSY: Doubles, weight_SYY: Doubles, shape_SYY: Doubles, level_S: Doubles
) -> Doubles:
    """Return the squares of `TESTS`, [W, S, 3].

    Args:
        force_WSY: precision times deviation.
        weight_SYY: see `JointPlan`.
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


def excess_of(deviation_WJ: Doubles, joint: JointPlan, evidence_W: Doubles) -> Doubles:
    """Return how many times its limit the largest square of each sensor is, [W, S].

    Args:
        deviation_WJ: summaries less the centre of all windows, in scales.
        joint: with its limits.
        evidence_W: see `where_rest_is_new`.
    """
    apart_WJ = deviation_WJ - joint.centre_J
    # one product a window: the rounding of a larger one would depend on the number of windows
    force_WJ = np.array([joint.precision_JJ @ each_J for each_J in apart_WJ]).reshape(
        apart_WJ.shape
    )
    total_W = np.einsum("wj,wj->w", force_WJ, apart_WJ)
    force_WSY = force_WJ.reshape(len(force_WJ), -1, Y)
    square_WSQ = squares(force_WSY, joint.weight_SYY, joint.shape_SYY, joint.level_S)
    # the examination decides about a window whose other sensors are nearly as new
    return _beyond(square_WSQ, total_W, joint, evidence_W, 1.0 / NEARLY)


def _beyond(
    square_WSQ: Doubles,
    total_W: Doubles,
    joint: JointPlan,
    evidence_W: Doubles,
    share: float,
) -> Doubles:
    """Compare squares with the limits.

    Args:
        square_WSQ: see `squares`.
        total_W: square of all sensors that are not masked.
        joint: whose limits.
        evidence_W: see `where_rest_is_new`.
        share: factor of `rest_S`: the square of fewer sensors is smaller.
    """
    if joint.rest_S is not None:
        square_WSQ = where_rest_is_new(square_WSQ, total_W, joint.rest_S * share, evidence_W)
    excess_WS: Doubles = (square_WSQ / joint.limit_SQ).max(-1)
    return excess_WS


def where_rest_is_new(
    square_WSQ: Doubles, total_W: Doubles, rest_S: Doubles, evidence_W: Doubles
) -> Doubles:
    """Return squares of sensors less the evidence, 0 where the other sensors do not look as new.

    Args:
        square_WSQ: with the Gaussian of machines as new.
        total_W: square of all sensors.
        rest_S: largest square of the others with which they look as new.
        evidence_W: by what a component's fault lowers the square.
    """
    is_new_WS = total_W[:, None] - square_WSQ[..., 0] <= rest_S
    found_WSQ: Doubles = np.where(is_new_WS[..., None], square_WSQ - evidence_W[:, None, None], 0.0)
    return found_WSQ
