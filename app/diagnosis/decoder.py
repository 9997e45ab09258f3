"""Decode the prediction for a component: condition, health, degradation rate and remaining life.

Pure, and in plain numbers: it runs for every component of every request. Invariant: a health lies
in its interval, and both in [0, 1]; remaining life lies in its interval, and neither is negative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite
from typing import NamedTuple, Self

import numpy as np

from app.checkpoint.calibration import AS_STATED, Calibration, ComponentCalibration
from app.checkpoint.manifest import WEIGHTS, Head, Manifest
from app.checkpoint.masking import Masking
from app.features.spec import FeatureSpec
from app.model.grades import health_of_grades
from app.model.graph import Prediction
from app.schemas.diagnosis import Basis
from app.schemas.equipment import Component, Grade

DIGITS = 6
"""Decimals of the numbers in a diagnosis: finer than any threshold and than float32."""
NO_WEAR_LABELS = "the training data of this version hold no history of wear for this component"
NOT_FINITE = "the network's output for this component is not a finite number"
AT_CAP = 0.98
"""Share of the horizon of training from which remaining life counts as the horizon: a mean of
networks approaches it from below."""


class ComponentPrediction(NamedTuple):
    """Prediction for one component as Python numbers, which are faster here than numpy's.

    Args:
        health: of the network's health head.
        spread: standard deviation of `health`.
        rate: health lost per 1000 operating hours.
        rul_h: remaining life.
        rul_spread_h: standard deviation of `rul_h`.
        probability_K: of the grades, NaN beyond the component's.
        distance: OOD distance; NaN where unknown.
    """

    health: float
    spread: float
    rate: float
    rul_h: float
    rul_spread_h: float
    probability_K: Sequence[float]
    distance: float


def window_predictions(prediction: Prediction) -> list[list[ComponentPrediction]]:
    """Return the predictions of each window's components, in order, as plain numbers."""
    probability_WVK = prediction.probability_WVK
    _, V, K = probability_WVK.shape
    columns = (
        *(
            values_WV.ravel().tolist()
            for values_WV in (
                prediction.health_WV,
                prediction.spread_WV,
                prediction.rate_WV,
                prediction.rul_WV,
                prediction.rul_spread_WV,
            )
        ),
        probability_WVK.reshape(-1, K).tolist(),
        prediction.distance_WV.ravel().tolist(),
    )
    flat = list(map(ComponentPrediction._make, zip(*columns, strict=True)))
    return [flat[start : start + V] for start in range(0, len(flat), V)]


class Condition(NamedTuple):
    """A component's most probable grade and its probability."""

    name: str
    confidence: float


class Health(NamedTuple):
    """A component's health, its interval, and their basis."""

    health: float | None
    interval: tuple[float, float]
    basis: Basis


class RemainingLife(NamedTuple):
    """A component's remaining life and its interval, and why it is unknown or may be longer."""

    rul_h: float | None
    interval_h: tuple[float, float] | None
    reason: str | None


UNKNOWN = Health(None, (0.0, 1.0), "none")
NO_LIFE = RemainingLife(None, None, NO_WEAR_LABELS)


@dataclass(frozen=True, slots=True)
class ComponentDecoder:
    """Decodes the predictions of one version for one component.

    Args:
        component_id: of the component.
        names_K: of the grades of training; empty for a component without grade labels.
        health_K: of the same grades.
        has_health: whether training had labels of health; likewise the other heads.
        has_rate: of the degradation rate.
        has_rul: of remaining life.
        calibration: of the component.
        coverage: of the intervals.
    """

    component_id: str
    names_K: Sequence[str]
    health_K: Sequence[float]
    has_health: bool
    has_rate: bool
    has_rul: bool
    calibration: ComponentCalibration
    coverage: float

    def condition(self, predicted: ComponentPrediction) -> Condition | None:
        """Return the condition; None without grades, or where the output is not finite."""
        probability_K = predicted.probability_K[: len(self.names_K)]
        if not probability_K or not isfinite(sum(probability_K)):
            return None
        best = max(probability_K)
        return Condition(self.names_K[probability_K.index(best)], unit(best))

    def doubt(self, predicted: ComponentPrediction, condition: Condition | None) -> str:
        """Return why the component abstains when a sensor is missing; empty if it does not.

        Held-out windows with sensors removed gave the thresholds: less sure answers were wrong too
        often.
        """
        stated, name = self.calibration, self.component_id
        if condition is not None:
            if condition.confidence >= stated.least_confidence:
                return ""
            needed = (
                f"the condition of '{name}' with a confidence of at least "
                f"{stated.least_confidence:.1%}"
            )
            found = f"{condition.confidence:.1%}"
        else:
            most = stated.most_spread
            if most is None or not self.has_health or not predicted.spread > most:
                return ""
            needed = f"the health of '{name}' with a spread of at most {most:.3f}"
            found = f"{predicted.spread:.3f}"
        return (
            f"expected {needed}, found {found}: bring the missing sensors back, and inspect "
            f"'{name}' meanwhile"
        )

    def health(
        self, predicted: ComponentPrediction, condition: Condition | None, novelty: float
    ) -> Health:
        """Return health, interval and basis.

        Args:
            predicted: prediction; a graded component has the health of its grades' distribution.
            condition: from the same prediction.
            novelty: health of a component without labels; NaN where unknown.
        """
        stated = self.calibration
        if self.health_K:
            if condition is None:
                return UNKNOWN
            probability_K = np.array(predicted.probability_K[: len(self.health_K)])
            health, spread = map(float, health_of_grades(probability_K, self.health_K))
            is_sure = condition.confidence >= self.coverage
            reach = spread * (stated.health_reach if is_sure else stated.unsure_reach)
        elif self.has_health:
            health, reach = predicted.health, stated.health_reach * predicted.spread
        else:
            return Health(unit(novelty), (0.0, 1.0), "novelty") if isfinite(novelty) else UNKNOWN
        if not (isfinite(health) and isfinite(reach)):
            return UNKNOWN
        return Health(unit(health), (unit(health - reach), unit(health + reach)), "labels")

    def rate(self, predicted: ComponentPrediction) -> tuple[float | None, str | None]:
        """Return health lost per 1000 operating hours, or why it is unknown."""
        if not self.has_rate:
            return None, NO_WEAR_LABELS
        return (predicted.rate, None) if isfinite(predicted.rate) else (None, NOT_FINITE)

    def remaining_life(self, predicted: ComponentPrediction) -> RemainingLife:
        """Return the remaining life in operating hours."""
        if not self.has_rul:
            return NO_LIFE
        stated = self.calibration
        reach_h = stated.rul_reach * predicted.rul_spread_h
        if not (isfinite(predicted.rul_h) and isfinite(reach_h)):
            return RemainingLife(None, None, NOT_FINITE)
        cap_h = inf if stated.rul_cap_h is None else round(stated.rul_cap_h, DIGITS)
        rul_h = min(max(0.0, predicted.rul_h), cap_h)
        low_h, high_h = (
            round(max(0.0, rul_h - reach_h), DIGITS),
            round(min(cap_h, rul_h + reach_h), DIGITS),
        )
        if rul_h < AT_CAP * cap_h:
            return RemainingLife(round(rul_h, DIGITS), (low_h, high_h), None)
        reason = f"training looks no further than {cap_h:g} operating hours ahead: it may be longer"
        return RemainingLife(cap_h, (low_h, cap_h), reason)


@dataclass(frozen=True)
class PredictionDecoder:
    """Decodes the predictions of one version for one design.

    Args:
        version: its name.
        weights_sha256: of its weights.
        grades: of training by component id; a component that is not in it had no labels.
        trained_heads: by head (`grade`, `health`, `rate`, `rul`) the ids of the components that had
            a label for it; the head's output for others of the same type was never checked.
        calibrations: by component id; the default is `AS_STATED`.
        masking: evidence that training withheld.
        coverage: of the intervals.
    """

    version: str
    weights_sha256: str
    grades: Mapping[str, Sequence[Grade]]
    trained_heads: Mapping[Head, Sequence[str]]
    calibrations: Mapping[str, ComponentCalibration]
    masking: Masking
    coverage: float = 0.9

    @classmethod
    def of(
        cls,
        version: str,
        design: str,
        manifest: Manifest,
        spec: FeatureSpec,
        calibration: Calibration,
    ) -> Self:
        """Return the decoder for a design by the documents of a version's checkpoint."""
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
        )

    def component(self, component: Component) -> ComponentDecoder:
        """Return the decoder of a component."""
        component_id = component.component_id
        found = self._components.get(component_id)
        if found is None:
            is_graded = component_id in self.trained_heads.get("grade", ())
            grades = self.grades.get(component_id, ()) if is_graded else ()
            found = self._components[component_id] = ComponentDecoder(
                component_id=component_id,
                names_K=[grade.name for grade in grades],
                health_K=[grade.health for grade in grades],
                has_health=component_id in self.trained_heads.get("health", ()),
                has_rate=component_id in self.trained_heads.get("rate", ()),
                has_rul=component_id in self.trained_heads.get("rul", ()),
                calibration=self.calibrations.get(component_id, AS_STATED),
                coverage=self.coverage,
            )
        return found

    @cached_property
    def predicted(self) -> frozenset[str]:
        """Ids of the components that any head had a label for."""
        return frozenset().union(*self.trained_heads.values())

    @cached_property
    def _components(self) -> dict[str, ComponentDecoder]:
        return {}


def unit(value: float) -> float:
    """Return a number clipped to [0, 1] and rounded to `DIGITS`; NaN becomes 0."""
    if not value > 0.0:
        return 0.0
    return 1.0 if value >= 1.0 else round(value, DIGITS)
