"""Decodes predictions: condition, health, degradation rate and remaining life of each component.

Pure. The windows of a prediction are decoded together in numpy; a diagnosis reads plain numbers.
Invariant: a health lies in its interval, and both in [0, 1]; remaining life lies in its interval,
and neither is negative. Shape letters as in `app.model.graph`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.checkpoint.calibration import (
    SURE_HEALTH,
    UNCALIBRATED,
    Calibration,
    ComponentCalibration,
)
from app.checkpoint.manifest import WEIGHTS, Head, Manifest
from app.checkpoint.masking import Masking
from app.diagnosis.untrained import calibrations_by_type, heads_by_type
from app.features.binning import Doubles
from app.features.spec import FeatureSpec
from app.model.grades import Numbers, health_of_grades
from app.model.graph import Booleans, Prediction
from app.schemas.diagnosis import Basis
from app.schemas.equipment import Equipment, Grade

DIGITS = 6
"""Decimals of the numbers in a diagnosis: finer than any threshold and than float32."""
NO_WEAR_LABELS = "the training data of this version hold no history of wear for this component"
NOT_FINITE = "the network's output for this component is not a finite number"
UNKNOWN_INTERVAL = (0.0, 1.0)
_NONE = np.array(None, object)
AT_CAP = 0.98
"""Share of the horizon of training from which remaining life counts as the horizon: a mean of
networks approaches it from below."""


class DecodedComponent(NamedTuple):
    """A version's answer for one component of one window, in plain numbers.

    Args:
        basis: what the health rests on: `labels`, or `novelty` for a component without labels.
        health: by labels; None without them, or where the output is not finite.
        interval: of the health; [0, 1] where it is None.
        condition: name of the most probable grade; None without grades or a finite output.
        confidence: probability of that grade.
        spread: standard deviation by the network's health head.
        distance: OOD distance; NaN where unknown.
        stated_distance: the same as a diagnosis states it; None where unknown or infinite.
        rate: health lost per 1000 operating hours; None where unknown.
        rate_interval: its interval; None where it is unknown, or was not calibrated.
        rate_reason: why the rate is unknown.
        rul_h: remaining life in operating hours; None where unknown.
        rul_interval_h: its interval.
        rul_reason: why it is unknown, or may be longer.
    """

    basis: Basis
    health: float | None
    interval: tuple[float, float]
    condition: str | None
    confidence: float | None
    spread: float
    distance: float
    stated_distance: float | None
    rate: float | None
    rate_interval: tuple[float, float] | None
    rate_reason: str | None
    rul_h: float | None
    rul_interval_h: tuple[float, float] | None
    rul_reason: str | None


@dataclass(frozen=True)
class PredictionDecoder:
    """Decodes the predictions of one version for one design.

    Args:
        version: its name.
        weights_sha256: of its weights.
        grades: of training by component id; a component that is not in it had no labels.
        trained_heads: by head (`grade`, `health`, `rate`, `rul`) the ids of the components that had
            a label for it; the head's output for others of the same type was never checked.
        calibrations: by component id; the default is `UNCALIBRATED`.
        masking: evidence that training withheld.
        coverage: of the intervals.
        design_trained: whether the version was trained on the design.
        life_scale: of the design, see `FeatureSpec.life_scales`.
    """

    version: str
    weights_sha256: str
    grades: Mapping[str, Sequence[Grade]]
    trained_heads: Mapping[Head, Sequence[str]]
    calibrations: Mapping[str, ComponentCalibration]
    masking: Masking
    coverage: float = 0.9
    design_trained: bool = True
    life_scale: float = 1.0

    @classmethod
    def of(
        cls,
        version: str,
        equipment: Equipment,
        manifest: Manifest,
        spec: FeatureSpec,
        calibration: Calibration,
    ) -> Self:
        """Return the decoder for a machine's design by the documents of a version's checkpoint."""
        design = equipment.design
        if design not in spec.references:
            return cls._of_untrained(version, equipment, manifest, spec, calibration)
        return cls(
            version=version,
            weights_sha256=manifest.sha256[WEIGHTS],
            grades=spec.grades.get(design, {}),
            trained_heads={
                head: designs.get(design, ()) for head, designs in manifest.trained_heads.items()
            },
            calibrations=calibration.components.get(design, {}),
            masking=manifest.masking,
            coverage=calibration.coverage,
            life_scale=spec.life_scales.get(design, 1.0),
        )

    @classmethod
    def _of_untrained(
        cls,
        version: str,
        equipment: Equipment,
        manifest: Manifest,
        spec: FeatureSpec,
        calibration: Calibration,
    ) -> Self:
        """Return the decoder for a design without training: heads and intervals by type."""
        return cls(
            version=version,
            weights_sha256=manifest.sha256[WEIGHTS],
            grades={},
            trained_heads=heads_by_type(equipment, manifest, spec),
            calibrations=calibrations_by_type(equipment, calibration, spec),
            masking=manifest.masking,
            coverage=calibration.coverage,
            design_trained=False,
        )

    @cached_property
    def predicted(self) -> frozenset[str]:
        """Ids of the components that any head had a label for."""
        return frozenset().union(*self.trained_heads.values())

    def has(self, head: Head, component_id: str) -> bool:
        """Return whether training had labels of a component for a head."""
        return component_id in self.trained_heads.get(head, ())

    def doubt(self, component_id: str, decoded: DecodedComponent) -> str:
        """Return why a component abstains when a sensor is missing; empty if it does not.

        Held-out windows with sensors removed gave the thresholds: less sure answers were wrong too
        often.
        """
        stated = self.calibrations.get(component_id, UNCALIBRATED)
        if decoded.confidence is not None:
            if decoded.confidence >= stated.least_confidence:
                return ""
            needed = f"condition of '{component_id}' with a confidence of at least "
            needed += f"{stated.least_confidence:.1%}"
            found = f"{decoded.confidence:.1%}"
        else:
            most = stated.most_spread
            if most is None or not self.has("health", component_id) or not decoded.spread > most:
                return ""
            needed = f"health of '{component_id}' with a spread of at most {most:.3f}"
            found = f"{decoded.spread:.3f}"
        return (
            f"expected the {needed}, found {found}: bring the missing sensors back, and inspect "
            f"'{component_id}' meanwhile"
        )

    def decode(
        self, prediction: Prediction, component_ids: Sequence[str]
    ) -> list[list[DecodedComponent]]:
        """Decode the components of each window.

        Args:
            prediction: of this version, for windows of one topology of the design.
            component_ids: of the topology, in order.
        """
        windows, V = prediction.windows, len(component_ids)
        stated = [self.calibrations.get(each, UNCALIBRATED) for each in component_ids]
        with np.errstate(invalid="ignore", over="ignore"):  # outputs need not be finite
            distance_WV = prediction.distance_WV
            columns = (
                *self._healths(prediction, component_ids, stated),
                _flat(prediction.spread_WV),
                _flat(distance_WV),
                _known(_rounded(distance_WV, inf), np.isfinite(distance_WV)),
                *self._rates(prediction, component_ids, stated),
                *self._remaining_lives(prediction, component_ids, stated),
            )
        flat = list(map(DecodedComponent._make, zip(*columns, strict=True)))
        return [flat[start : start + V] for start in range(0, windows * V, V)]

    def _healths(
        self,
        prediction: Prediction,
        component_ids: Sequence[str],
        stated: Sequence[ComponentCalibration],
    ) -> tuple[Sequence[object], ...]:
        """Return the columns from `basis` to `confidence`."""
        probability_WVK = prediction.probability_WVK
        W, V, K = probability_WVK.shape
        name_VK, health_VK = np.full((V, K), None), np.zeros((V, K))
        count_V = np.zeros(V, np.int64)
        for v, component_id in enumerate(component_ids):
            grades = self.grades.get(component_id, ()) if self.has("grade", component_id) else ()
            grades = grades[:K]
            count_V[v] = len(grades)
            for k, grade in enumerate(grades):
                name_VK[v, k], health_VK[v, k] = grade.name, grade.health
        own_WVK = np.where(np.arange(K) < count_V[:, None], probability_WVK, np.float64(0.0))
        mean_WV, deviation_WV = health_of_grades(own_WVK, health_VK)
        is_graded_V = count_V > 0
        has_condition_WV = np.isfinite(own_WVK.sum(-1)) & is_graded_V
        confidence_WV = _rounded(own_WVK.max(-1), 1.0)
        health_WV = np.where(is_graded_V, mean_WV, prediction.health_WV)
        is_unsure_WV = np.where(is_graded_V, confidence_WV < self.coverage, health_WV < SURE_HEALTH)
        spread_WV = np.where(is_graded_V, deviation_WV, prediction.spread_WV)
        reach_WV = spread_WV * np.where(
            is_unsure_WV,
            [each.unsure_reach for each in stated],
            [each.health_reach for each in stated],
        )
        is_labelled_V = is_graded_V | [self.has("health", each) for each in component_ids]
        has_health_WV = np.isfinite(health_WV) & np.isfinite(reach_WV) & is_labelled_V
        low_WV = np.where(has_health_WV, _rounded(health_WV - reach_WV, 1.0), 0.0)
        high_WV = np.where(has_health_WV, _rounded(health_WV + reach_WV, 1.0), 1.0)
        basis: list[Basis] = ["labels" if each else "novelty" for each in is_labelled_V.tolist()]
        return (
            W * basis,
            _known(_rounded(health_WV, 1.0), has_health_WV),
            list(zip(_flat(low_WV), _flat(high_WV), strict=True)),
            _known(name_VK[np.arange(V), own_WVK.argmax(-1)], has_condition_WV),
            _known(confidence_WV, has_condition_WV),
        )

    def _rates(
        self,
        prediction: Prediction,
        component_ids: Sequence[str],
        stated: Sequence[ComponentCalibration],
    ) -> tuple[Sequence[object], ...]:
        """Return the columns from `rate` to `rate_reason`."""
        has_rate_V = np.array([self.has("rate", each) for each in component_ids])
        if not has_rate_V.any():
            unknown = prediction.health_WV.size
            return [None] * unknown, [None] * unknown, [NO_WEAR_LABELS] * unknown
        is_finite_WV = np.isfinite(prediction.rate_WV)
        rates = _known(prediction.rate_WV / self.life_scale, is_finite_WV & has_rate_V)
        reaches = [each.rate_reach for each in stated] * len(prediction.rate_WV)
        return (
            rates,
            [
                None if rate is None or reach is None else (rate - reach, rate + reach)
                for rate, reach in zip(rates, reaches, strict=True)
            ],
            _reason(_NONE, is_finite_WV, has_rate_V),
        )

    def _remaining_lives(
        self,
        prediction: Prediction,
        component_ids: Sequence[str],
        stated: Sequence[ComponentCalibration],
    ) -> tuple[Sequence[object], ...]:
        """Return the columns from `rul_h` to `rul_reason`."""
        has_rul_V = np.array([self.has("rul", each) for each in component_ids])
        if not has_rul_V.any():
            unknown = prediction.health_WV.size
            return [None] * unknown, [None] * unknown, [NO_WEAR_LABELS] * unknown
        cap_V = np.array(
            [inf if each.rul_cap_h is None else round(each.rul_cap_h, DIGITS) for each in stated]
        )
        reach_V = self.life_scale * np.array([each.rul_reach for each in stated])
        reach_WV = prediction.rul_spread_WV * reach_V
        is_finite_WV = np.isfinite(prediction.rul_WV) & np.isfinite(reach_WV)
        is_known_WV = is_finite_WV & has_rul_V
        rul_WV = np.minimum(np.maximum(self.life_scale * prediction.rul_WV, 0.0), cap_V)
        at_cap_WV = rul_WV >= AT_CAP * cap_V
        low_WV = _rounded(rul_WV - reach_WV, inf)
        high_WV = np.where(at_cap_WV, cap_V, _rounded(rul_WV + reach_WV, cap_V))
        interval = zip(_flat(low_WV), _flat(high_WV), strict=True)
        horizon_V = np.array(
            [
                f"training looks no further than {each:g} operating hours ahead: it may be longer"
                for each in cap_V.tolist()
            ],
            object,
        )
        return (
            _known(np.where(at_cap_WV, cap_V, _rounded(rul_WV, inf)), is_known_WV),
            [
                each if known else None
                for each, known in zip(interval, _flat(is_known_WV), strict=True)
            ],
            _reason(np.where(at_cap_WV, horizon_V, _NONE), is_finite_WV, has_rul_V),
        )


class PredictionBatch:
    """The prediction for windows of one topology, decoded when the first of them needs it.

    Args:
        prediction: of a version.
    """

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self._decoded: tuple[PredictionDecoder, list[list[DecodedComponent]]] | None = None

    def decoded(
        self, row: int, decoder: PredictionDecoder, component_ids: Sequence[str]
    ) -> Sequence[DecodedComponent]:
        """Return the components of one window, as the version's decoder decodes them."""
        found = self._decoded
        if found is None or found[0] != decoder:
            found = decoder, decoder.decode(self.prediction, component_ids)
            self._decoded = found
        return found[1][row]


class WindowPrediction(NamedTuple):
    """The prediction for one window: a row of a batch."""

    batch: PredictionBatch
    row: int

    def decoded(
        self, decoder: PredictionDecoder, component_ids: Sequence[str]
    ) -> Sequence[DecodedComponent]:
        """Return the components, as the decoder of the version decodes them."""
        return self.batch.decoded(self.row, decoder, component_ids)


def window_predictions(prediction: Prediction) -> list[WindowPrediction]:
    """Return the prediction for each window."""
    batch = PredictionBatch(prediction)
    return [WindowPrediction(batch, row) for row in range(prediction.windows)]


def unit(value: float) -> float:
    """Return a number clipped to [0, 1] and rounded to `DIGITS`; NaN becomes 0."""
    if not value > 0.0:
        return 0.0
    return 1.0 if value >= 1.0 else round(value, DIGITS)


def _rounded(values_WV: Numbers, high: float | Doubles) -> Numbers:
    """Return numbers clipped to [0, high] and rounded to `DIGITS`; NaN stays."""
    clipped_WV = np.minimum(np.maximum(values_WV, np.float64(0.0)), high)
    rounded_WV: Numbers = np.round(clipped_WV, DIGITS) + 0.0  # no -0.0
    return rounded_WV


def _flat(values_WV: NDArray[Any]) -> list[Any]:
    """Return the values as Python's, windows in order."""
    found: list[Any] = values_WV.ravel().tolist()
    return found


def _known(values_WV: NDArray[Any], is_known_WV: Booleans) -> list[Any]:
    """Return the values as Python's, None where they are not known."""
    return _flat(values_WV if is_known_WV.all() else np.where(is_known_WV, values_WV, _NONE))


def _reason(text: NDArray[Any], is_finite_WV: Booleans, has_labels_V: Booleans) -> list[Any]:
    """Return the text of each component; what is unknown has the reason instead."""
    known_WV = np.where(is_finite_WV, text, NOT_FINITE)
    return _flat(np.where(has_labels_V, known_WV, NO_WEAR_LABELS))
