"""Names the kind of a sensor's fault: the change that, undone, leaves what the others predict.

Each kind is a hypothesis about how true values became these readings. It is undone on the bins (on
the summary for noise, which can't be undone bin by bin), and the kind whose remainder is the
smallest square under the prediction is named. A kind with more freedom pays for it.
Shapes: N bins, T steps, H hypotheses, Y numbers of a summary, X its last four.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import Literal, NamedTuple, get_args

import numpy as np

from app.features.binning import Doubles, Floats
from app.features.sensor_tests import Accused
from app.features.window_summary import (
    ISOLATED,
    LEVEL,
    QUIET,
    ROUGHNESS,
    SPREAD,
    TREND,
    summarise,
)

FaultKind = Literal[
    "stuck", "drift", "offset", "gain", "spike", "noise", "dropout", "unit_swap", "out_of_range",
    "implausible",
]  # fmt: skip
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
"""`implausible`: contradicted by the others, by no kind of fault that is known."""

OTHER_UNITS: Mapping[str, Sequence[tuple[float, float]]] = {
    "bar": ((14.5038, 0.0), (100.0, 0.0), (0.1, 0.0), (10.0, 0.0), (0.986923, 0.0)),
    "kPa": ((0.01, 0.0), (0.145038, 0.0), (0.001, 0.0)),
    "MPa": ((10.0, 0.0), (145.038, 0.0), (1000.0, 0.0)),
    "psi": ((0.0689476, 0.0),),
    "degC": ((1.8, 32.0), (1.0, 273.15)),
    "degF": ((1 / 1.8, -32 / 1.8),),
    "K": ((1.0, -273.15),),
    "l/min": ((0.264172, 0.0), (1 / 60, 0.0), (0.06, 0.0), (0.219969, 0.0)),
    "rpm": ((1 / 60, 0.0), (0.104720, 0.0)),
    "W": ((0.001, 0.0), (0.00134102, 0.0)),
    "kW": ((1000.0, 0.0), (1.34102, 0.0)),
    "mm": ((1 / 25.4, 0.0), (0.001, 0.0), (0.1, 0.0)),
    "m": ((1000.0, 0.0), (3.28084, 0.0)),
    "m/s": ((3.28084, 0.0), (3.6, 0.0), (1000.0, 0.0)),
    "mm/s": ((1 / 25.4, 0.0), (0.001, 0.0)),
    "Nm": ((0.737562, 0.0), (0.001, 0.0)),
    "kN": ((0.224809, 0.0), (1000.0, 0.0), (0.101972, 0.0)),
    "deg": ((0.0174533, 0.0), (1 / 360, 0.0)),
    "%": ((0.01, 0.0),),
    "A": ((1000.0, 0.0),),
    "V": ((1000.0, 0.0),),
}
"""Factor and offset from a unit to those that it is confused with: psi, gpm, Hz, hp, inch ..."""
GAINS = np.exp(np.concatenate([-np.geomspace(0.8, 0.03, 24), np.geomspace(0.03, 0.8, 24)]))
"""Tried as wrong gains, .45 to 2.2: a transmitter is seldom further off, and with larger ones any
rough signal could be called a wrong gain."""
FREEDOM: Mapping[FaultKind, float] = {
    "offset": 2.0, "gain": 2.0, "drift": 4.0, "unit_swap": 1.0, "spike": 4.0, "noise": 2.0,
}  # fmt: skip
"""What the square of a kind is raised by: twice its free parameters, as in Akaike's criterion."""
BEGINS = 4.0
"""What it is raised by for an offset that begins in the window: when, and the better of many."""
FLAT_SHARE = 0.3
"""Share of the window of one unchanged value from which a sensor whose values should vary is
stuck."""
SPIKES_SHARE = 0.08
"""Share of the bins that spikes take at most; more are noise."""
ROUGHLY = 0.3
"""Standard deviation of the logarithms that noise or spikes leave: noise is not quite white, small
spikes stay, and both are cut off at the ends of the range."""
FAR_SPREADS = 4.0
"""Predicted standard deviations of the readings between a value and the predicted mean from which
the value is far from it."""
EXPLAINED = 0.5
"""Share of the square that a kind has to leave at most, else the fault is of no known kind."""
WHITE_BEND = (6.0**0.5) * (2.0 / np.pi) ** 0.5
"""Mean second difference of white noise of standard deviation 1."""
WHITE_ISOLATED = 0.87
"""Root mean square distance of its values from the median of three, likewise."""


class NamedFault(NamedTuple):
    """What kind of fault a sensor has.

    Args:
        kind: of the fault.
        since: bin from which on it shows; 0 where it may be older than the window.
        size: offset, rise of a drift over the window, height of spikes or standard deviation of
            noise, in the sensor's unit; factor of a gain or another unit; value of a stuck sensor;
            NaN where there is none.
    """

    kind: FaultKind
    since: int = 0
    size: float = float("nan")


class Instrument(NamedTuple):
    """What is known of a sensor beside its readings.

    Args:
        usual_T: mean of each step in the reference.
        floor: of its summaries.
        unit: of its readings.
        low: lower end of its range, in the unit.
        high: upper end.
    """

    usual_T: Doubles
    floor: float
    unit: str
    low: float
    high: float


def name_fault(accused: Accused, values_N: Floats, instrument: Instrument) -> NamedFault:
    """Name the kind of fault of an accused sensor.

    Args:
        accused: with what the others predict.
        values_N: its bins, NaN where missing.
        instrument: the sensor.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # readings near the end of float32
        return _name(accused, values_N, instrument)


def _name(accused: Accused, values_N: Floats, instrument: Instrument) -> NamedFault:
    usual_T, floor, unit = instrument.usual_T, instrument.floor, instrument.unit
    first, length = longest_run(values_N)
    predicted_Y, known = accused.predicted_Y, int(np.isfinite(values_N).sum())
    varies = np.exp(predicted_Y[SPREAD]) > 2.0 * floor
    if varies and length > FLAT_SHARE * known:
        if _is_at_end(values_N[first], predicted_Y, instrument):
            return NamedFault("out_of_range", first)
        return NamedFault("stuck", first, float(values_N[first]))
    place_N = np.linspace(-1.0, 1.0, len(values_N))
    deviation_Y = accused.summary_Y - predicted_Y
    precision_YY = accused.precision_YY
    offset = float(precision_YY[LEVEL] @ deviation_Y / precision_YY[LEVEL, LEVEL])
    both = np.array([LEVEL, TREND])
    line = np.linalg.solve(precision_YY[np.ix_(both, both)], (precision_YY @ deviation_Y)[both])
    spikes_N, height = find_spikes(values_N, predicted_Y, floor)
    tried: list[tuple[NamedFault, Floats | Doubles]] = [
        (NamedFault("offset", 0, offset), values_N - offset),
        (NamedFault("drift", 0, 2.0 * line[1]), values_N - line[0] - line[1] * place_N),
        *_late_offsets(values_N, usual_T, float(predicted_Y[LEVEL])),
        *((NamedFault("gain", 0, gain), values_N / gain) for gain in GAINS.tolist()),
        *(
            (NamedFault("unit_swap", 0, factor), (values_N - shift) / factor)
            for factor, shift in OTHER_UNITS.get(unit, ())
        ),
    ]
    if 0 < spikes_N.sum() <= SPIKES_SHARE * known:
        calm_N = np.where(spikes_N, _median(values_N), values_N)
        tried.append((NamedFault("spike", int(spikes_N.argmax()), height), calm_N))
    undone_HN = np.stack([values for _, values in tried]).astype(np.float32)
    summary_HY = summarise(undone_HN[:, None], usual_T[None], np.array([floor]))[:, 0]
    noise_Y, sigma = _without_noise(accused.summary_Y, predicted_Y, floor)
    found = [fault for fault, _ in tried]
    if sigma > floor:
        found.append(NamedFault("noise", 0, sigma))
        summary_HY = np.concatenate([summary_HY, noise_Y[None]])
    apart_HY = summary_HY - predicted_Y
    square_H = np.einsum("hy,yz,hz->h", apart_HY, precision_YY, apart_HY)
    whole_H = np.full(len(found), float(deviation_Y @ precision_YY @ deviation_Y))
    cost_H = np.array([FREEDOM[fault.kind] + BEGINS * (fault.since > 0) for fault in found])
    for place, fault in enumerate(found):
        if fault.kind in ("spike", "noise"):
            variance = sigma**2 / known if fault.kind == "noise" else 0.0
            rough_YY, volume = _rough(precision_YY, variance)
            square_H[place] = apart_HY[place] @ rough_YY @ apart_HY[place]
            whole_H[place] = deviation_Y @ rough_YY @ deviation_Y
            cost_H[place] += volume
    cost_H += square_H
    best = int(np.nan_to_num(cost_H, nan=np.inf).argmin())
    if not square_H[best] <= EXPLAINED * whole_H[best]:  # false for NaN too
        return NamedFault("implausible")
    chosen = found[best]
    if chosen.kind == "noise":
        return chosen._replace(since=_noisy_since(values_N, len(usual_T), predicted_Y, floor))
    return chosen


def longest_run(values_N: Floats) -> tuple[int, int]:
    """Return the first bin and the number of readings of the longest run of one value."""
    there = np.flatnonzero(np.isfinite(values_N))
    if not len(there):
        return 0, 0
    begins = np.flatnonzero(np.diff(values_N[there], prepend=np.nan) != 0)
    lengths = np.diff(begins, append=len(there))
    longest = int(lengths.argmax())
    return int(there[begins[longest]]), int(lengths[longest])


def find_spikes(values_N: Floats, predicted_Y: Doubles, floor: float) -> tuple[Floats, float]:
    """Return which bins are spikes, [N], and their median height.

    A spike is further from the median of itself and its neighbours than six times what is usual.

    Args:
        values_N: bins of a sensor.
        predicted_Y: its summary as it should be.
        floor: of its summaries.
    """
    apart_N = np.nan_to_num(values_N - _median(values_N))
    usual = max(float(np.exp(predicted_Y[ISOLATED])) - floor, floor)
    spikes_N = np.abs(apart_N) > 6.0 * usual
    height = float(np.median(np.abs(apart_N[spikes_N]))) if spikes_N.any() else 0.0
    return spikes_N, height


def _median(values_N: Floats) -> Floats:
    """Return the median of each bin and its two neighbours; the ends are their own."""
    found_N = values_N.copy()
    before, here, after = values_N[:-2], values_N[1:-1], values_N[2:]
    found_N[1:-1] = np.maximum(
        np.minimum(before, after), np.minimum(np.maximum(before, after), here)
    )
    return np.where(np.isfinite(found_N), found_N, values_N)


def _is_at_end(value: np.float32, predicted_Y: Doubles, instrument: Instrument) -> bool:
    """Return whether readings of one value are at an end of the range, far from the predicted.

    Such a sensor is not stuck at a value of the machine: its readings would be beyond the range.
    """
    at_end = value >= np.float32(instrument.high) or value <= np.float32(instrument.low)
    predicted = float(instrument.usual_T.mean() + predicted_Y[LEVEL])
    far = FAR_SPREADS * float(np.exp(predicted_Y[SPREAD]))
    return bool(at_end and abs(float(value) - predicted) > far)


def _rough(precision_YY: Doubles, variance: float) -> tuple[Doubles, float]:
    """Return the precision of what noise or spikes leave, whose sizes are known roughly.

    Args:
        precision_YY: of the deviation from the prediction.
        variance: of the mean of the noise over the window; that of a trend is three times that.

    Returns:
        The precision, and the logarithm of the covariance's determinant over the predicted one's.
    """
    covariance_YY = np.linalg.inv(precision_YY)
    covariance_YY[LEVEL, LEVEL] += variance
    covariance_YY[TREND, TREND] += 3.0 * variance
    shape = np.arange(SPREAD, QUIET + 1)
    covariance_YY[shape, shape] += ROUGHLY**2
    volume = float(np.linalg.slogdet(covariance_YY)[1] + np.linalg.slogdet(precision_YY)[1])
    return np.linalg.inv(covariance_YY), volume


def _without_noise(summary_Y: Doubles, predicted_Y: Doubles, floor: float) -> tuple[Doubles, float]:
    """Return the summary without the white noise that best explains it, and its deviation."""
    shape = slice(SPREAD, QUIET + 1)
    size_X = np.maximum(np.exp(summary_Y[shape]) - floor, 0.0)
    usual_X = np.maximum(np.exp(predicted_Y[shape]) - floor, 0.0)
    factor_X = np.array([1.0, WHITE_BEND, WHITE_ISOLATED, 0.8 * WHITE_BEND])
    extra_X = np.sqrt(np.maximum(size_X**2 - usual_X**2, 0.0))
    sigma = float(np.median(extra_X / factor_X))
    expected_X = np.sqrt(usual_X**2 + (sigma * factor_X) ** 2)
    found_Y = summary_Y.copy()
    found_Y[shape] = predicted_Y[shape] + np.log(size_X + floor) - np.log(expected_X + floor)
    return found_Y, sigma


def _late_offsets(
    values_N: Floats, usual_T: Doubles, level: float
) -> Iterator[tuple[NamedFault, Floats]]:
    """Yield offsets that begin with each step but the first, and the bins without them."""
    T, N = len(usual_T), len(values_N)
    bins_TN = values_N.reshape(T, N // T)
    count_T = np.isfinite(bins_TN).sum(1)
    step_T = np.nansum(bins_TN, 1) / np.maximum(count_T, 1) - usual_T
    for step in range(1, T):
        since = step * (N // T)
        offset = float(step_T[step:].mean()) - level
        late_N = np.where(np.arange(N) >= since, np.float32(offset), np.float32(0.0))
        yield NamedFault("offset", since, offset), values_N - late_N


def _noisy_since(values_N: Floats, steps: int, predicted_Y: Doubles, floor: float) -> int:
    """Return the bin from which the readings are noisy, if the first step is not, else 0."""
    width = len(values_N) // steps
    bend_N = np.abs(np.diff(values_N.astype(np.float64), n=2))
    usual = max(float(np.exp(predicted_Y[ROUGHNESS])) - floor, floor)
    for step in range(steps):
        own = bend_N[step * width : (step + 1) * width - 2]
        own = own[np.isfinite(own)]
        if len(own) and log(max(float(own.mean()), 1e-300) / usual) > log(2.0):
            return step * width
    return 0
