"""Calibrate and check the intervals of health and remaining life, and grades' probabilities.

The reach of an interval is fitted on held-out windows; each fold is checked with the reach that the
other folds give.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

import numpy as np

from app.checkpoint.calibration import SURE_HEALTH, Calibration, ComponentCalibration
from app.features.binning import Floats
from app.model.grades import ordinal_probability
from train.data.labels import HOUR_US, Booleans, evenly_spaced
from train.data.windows import Windows
from train.evaluation.conformal import (
    NO_RESIDUALS,
    Reach,
    cross_fit,
    is_enough,
    quantile,
    residuals,
)
from train.evaluation.record import IntervalFigures, Trajectory, Uncertainty
from train.evaluation.scores import Doubles, covered, nll, reliability
from train.evaluation.uncertainty import Answers, Rows, Temperatures

COVERAGE = 0.9
ROUNDING = 1e-6
"""Share of the scale by which a true value may miss its interval: labels are float32, and a
diagnosis has six decimals."""
MAX_POINTS = 400
"""Windows of a drawn trajectory."""
MAX_MACHINES = 4
"""Machines whose trajectories are drawn."""


class Band(NamedTuple):
    """True and predicted values of one quantity of one component with the interval's ends, [R]."""

    true_R: Floats
    predicted_R: Doubles
    low_R: Doubles
    high_R: Doubles


class Bands(NamedTuple):
    """Bands of health and remaining life of one component, None without labels."""

    health: Band | None
    rul: Band | None


class Residuals(NamedTuple):
    """Residuals of held-out windows in spreads, of all components of a design or of several.

    Args:
        health: where the answer is sure, as `ComponentCalibration` has it.
        unsure: of health where it is not.
        rul: of remaining life.
    """

    health: Doubles = NO_RESIDUALS
    unsure: Doubles = NO_RESIDUALS
    rul: Doubles = NO_RESIDUALS

    @classmethod
    def of(cls, rows: Rows, answers: Answers) -> Self:
        """Return the residuals of a design's held-out windows."""
        labels, cap_h = rows.labels, rows.cap_h
        known_RV = np.broadcast_to(rows.scored_R[:, None], labels.health_WV.shape)
        is_unsure_RV = _is_unsure(answers, COVERAGE)
        health_RV = residuals(
            labels.health_WV, np.clip(answers.health_RV, 0.0, 1.0), answers.spread_RV
        )
        rul_RV = residuals(
            labels.rul_WV, np.clip(answers.rul_RV, 0.0, cap_h), answers.rul_spread_RV
        )
        return cls(
            health_RV[known_RV & ~is_unsure_RV & np.isfinite(health_RV)],
            health_RV[known_RV & is_unsure_RV & np.isfinite(health_RV)],
            rul_RV[known_RV & np.isfinite(rul_RV)],
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Return the residuals of several designs."""
        return cls(*(np.concatenate((NO_RESIDUALS, *each)) for each in zip(*parts, strict=True)))


def calibrate(
    rows: Rows,
    temperatures: Temperatures,
    answers: Answers,
    elsewhere: Residuals = Residuals(),  # noqa: B008
) -> tuple[dict[str, Bands], dict[str, Uncertainty], Calibration]:
    """Fit and check intervals and stated probabilities of every component that has labels.

    Args:
        rows: the held-out windows.
        temperatures: of each fold.
        answers: of the held-out windows.
        elsewhere: residuals of other designs, used where a component has too few of its own.

    Returns:
        Bands and figures by component id, and the calibration fitted on all held-out windows.
    """
    equipment, labels, given = rows.equipment, rows.labels, rows.given
    bands: dict[str, Bands] = {}
    found: dict[str, Uncertainty] = {}
    shipped: dict[str, ComponentCalibration] = {}
    stated = Calibration(coverage=COVERAGE) if given is None else given.calibration
    is_unsure_RV = _is_unsure(answers, stated.coverage)
    for v, component in enumerate(equipment.components):
        before = stated.of(equipment.design, component.component_id)
        is_unsure_R = is_unsure_RV[:, v]
        health, health_figures = _intervals(
            rows, labels.health_WV[:, v], answers.health_RV[:, v], answers.spread_RV[:, v],
            is_unsure_R, 1.0,
            None if given is None else (before.health_reach, before.unsure_reach),
            (elsewhere.health, elsewhere.unsure),
        )  # fmt: skip
        rul, rul_figures = _intervals(
            rows, labels.rul_WV[:, v], answers.rul_RV[:, v], answers.rul_spread_RV[:, v],
            np.zeros_like(is_unsure_R), rows.cap_h,
            None if given is None else (before.rul_reach, before.rul_reach),
            (elsewhere.rul, elsewhere.rul),
        )  # fmt: skip
        rate_R = np.abs(answers.rate_RV[:, v] - labels.rate_WV[:, v])
        rate_R = np.where(rows.scored_R, rate_R, np.nan)
        if health_figures is None and rul_figures is None:
            continue
        bands[component.component_id] = Bands(health, rul)
        update: dict[str, float] = {}
        figures = Uncertainty(health=health_figures, rul=rul_figures)
        if health_figures is not None:
            update["health_reach"] = health_figures.reach
            if health_figures.unsure_reach is not None:
                update["unsure_reach"] = health_figures.unsure_reach
        if rul_figures is not None:
            update |= {"rul_reach": rul_figures.reach, "rul_cap_h": rows.cap_h}
        if is_enough(int(np.isfinite(rate_R).sum()), COVERAGE):
            update["rate_reach"] = quantile(rate_R[np.isfinite(rate_R)], COVERAGE)
        if rows.known_grades(v).any():
            stated_figures = _stated(rows, v, temperatures, answers.probability_RVK)
            figures = figures.model_copy(update=stated_figures)
        shipped[component.component_id] = before.model_copy(update=update)
        found[component.component_id] = figures
    if given is not None:
        return bands, found, stated
    return bands, found, Calibration(coverage=COVERAGE, components={equipment.design: shipped})


def pooled_calibration(
    windows: Windows, elsewhere: Residuals, cap_h: float
) -> dict[str, ComponentCalibration]:
    """Return the calibration of a design without held-out windows: that of the other designs.

    Args:
        windows: of the design; its components with labels get a calibration.
        elsewhere: residuals of the other designs.
        cap_h: of remaining life.
    """
    reach_of = {
        name: cross_fit(NO_RESIDUALS, np.empty(0, np.int64), COVERAGE, residual_W).shipped
        for name, residual_W in elsewhere._asdict().items()
    }
    found: dict[str, ComponentCalibration] = {}
    for v, component in enumerate(windows.equipment.components):
        update: dict[str, float] = {}
        if np.isfinite(windows.labels.health_WV[:, v]).any():
            update |= {"health_reach": reach_of["health"], "unsure_reach": reach_of["unsure"]}
        if np.isfinite(windows.labels.rul_WV[:, v]).any():
            update |= {"rul_reach": reach_of["rul"], "rul_cap_h": cap_h}
        if update:
            found[component.component_id] = ComponentCalibration.model_validate(update)
    return found


def _is_unsure(answers: Answers, coverage: float) -> Booleans:
    """Mark the answers about health whose intervals have the reach of unsure ones, [R, V]."""
    confidence_RV = answers.probability_RVK.max(-1)  # NaN without grades
    is_unsure_RV: Booleans = np.where(
        np.isfinite(confidence_RV), confidence_RV < coverage, answers.health_RV < SURE_HEALTH
    )
    return is_unsure_RV


def _stated(
    rows: Rows, v: int, temperatures: Temperatures, probability_RVK: Doubles
) -> dict[str, float | tuple[tuple[float, float, int], ...]]:
    """Check the stated probabilities of a component's grades."""
    known_R = rows.known_grades(v)
    true_R, probability_RK = rows.labels.grade_WV[known_R, v], probability_RVK[known_R, v]
    plain_RK = ordinal_probability(rows.predictions.logit_WMVJ[known_R, :, v], 1.0)
    return {
        "temperature": float(temperatures.shipped_V[v]),
        "nll_plain": nll(plain_RK, true_R),
        "nll_calibrated": nll(probability_RK, true_R),
        "reliability": reliability(probability_RK.max(-1), probability_RK.argmax(-1) == true_R),
    }


def _intervals(
    rows: Rows,
    true_R: Floats,
    predicted_R: Doubles,
    spread_R: Doubles,
    is_unsure_R: Booleans,
    cap: float,
    stated: tuple[float, float] | None,
    elsewhere: tuple[Doubles, Doubles],
) -> tuple[Band | None, IntervalFigures | None]:
    """Fit and check the intervals of one quantity, sure and unsure windows apart.

    The spread alone would not do: a wrong grade is many spreads away where the condition is sure,
    and most windows are sure, or as new, so one reach for all would cover these and hardly any of
    the others (Mondrian conformal prediction, Vovk et al., 2003).
    """
    known_R = rows.scored_R & np.isfinite(true_R) & np.isfinite(predicted_R)
    if not known_R.any() or cap <= 0:
        return None, None
    predicted_R = np.clip(predicted_R, 0.0, cap)
    residual_R = np.where(known_R, residuals(true_R, predicted_R, spread_R), np.nan)
    if stated is None:
        sure, unsure = (
            cross_fit(np.where(group_R, residual_R, np.nan), rows.fold_R, COVERAGE, pool)
            for group_R, pool in zip((~is_unsure_R, is_unsure_R), elsewhere, strict=True)
        )
    else:
        sure, unsure = (Reach(np.full(len(true_R), reach), reach) for reach in stated)
    apart_R = np.where(is_unsure_R, unsure.of_R, sure.of_R) * spread_R
    low_R, high_R = (np.clip(predicted_R + side * apart_R, 0.0, cap) for side in (-1.0, 1.0))
    inside_R = covered(true_R, low_R - ROUNDING * cap, high_R + ROUNDING * cap)
    unsure_R = known_R & is_unsure_R
    return Band(true_R, predicted_R, low_R, high_R), IntervalFigures(
        reach=sure.shipped,
        pooled=sure.is_pooled,
        unsure_reach=unsure.shipped if unsure_R.any() else None,
        coverage=float(inside_R[known_R].mean()),
        unsure=int(unsure_R.sum()),
        unsure_coverage=float(inside_R[unsure_R].mean()) if unsure_R.any() else None,
        parts={
            part.name: float(inside_R[own_R].mean())
            for number, part in enumerate(rows.parts)
            if (own_R := known_R & (rows.part_R == number)).any()
        },
        width=float((high_R - low_R)[known_R].mean()),
        windows=int(known_R.sum()),
    )


def trajectories(rows: Rows, bands: Mapping[str, Bands]) -> tuple[Trajectory, ...]:
    """Follow each component of a few machines through the held-out windows."""
    found: list[Trajectory] = []
    for component_id, band in bands.items():
        for quantity, values in (("health", band.health), ("rul_h", band.rul)):
            if values is None:
                continue
            known_R = rows.scored_R & np.isfinite(values.true_R)
            for machine in np.unique(rows.labels.machine_W[known_R])[:MAX_MACHINES].tolist():
                own = np.flatnonzero(known_R & (rows.labels.machine_W == machine))
                own = own[np.argsort(rows.labels.start_us_W[own], kind="stable")]
                own = evenly_spaced(own, MAX_POINTS)
                hours = (rows.labels.start_us_W[own] - rows.labels.start_us_W[own[0]]) / HOUR_US
                drawn = {
                    name: tuple(
                        np.round(getattr(values, f"{name}_R")[own].astype(np.float64), 5).tolist()
                    )
                    for name in ("true", "predicted", "low", "high")
                }
                found.append(
                    Trajectory(
                        machine=rows.windows.machines[machine],
                        component_id=component_id,
                        quantity="health" if quantity == "health" else "rul_h",
                        hours=tuple(np.round(hours, 4).tolist()),
                        **drawn,
                    )
                )
    return tuple(found)
