"""What a version was taught of a design, and what it tells of each component by that: health, condition, rate and remaining life.

Pure, and in plain numbers: it is asked for every component of every request.
Invariant: a health lies inside its interval, and both inside [0, 1]; remaining life lies inside its own, and neither is negative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import NamedTuple, Self

from app.checkpoint.calibration import AS_STATED, Calibration, ComponentCalibration
from app.checkpoint.manifest import WEIGHTS, Head, Manifest
from app.features.spec import FeatureSpec
from app.model.graph import Prediction
from app.schemas.diagnosis import Basis
from app.schemas.equipment import Component, Grade

DIGITS = 6
"""Decimals of what is told: finer than any threshold and than float32 can hold."""
NO_WEAR_LABELS = "the training data of this version hold no history of wear for this component"
NOT_FINITE = "the network's answer for this component is not a finite number"
AT_CAP = 0.98
"""Share of the hours that training looks ahead from which an answer counts as that many: a mean of networks nears it from below."""


class ComponentPrediction(NamedTuple):
    """A model's output for one component as plain numbers, which Python reads several times faster than numpy's."""

    health: float
    spread: float
    rate: float
    rul_h: float
    rul_spread_h: float
    share_K: Sequence[float]
    distance: float


def window_predictions(prediction: Prediction) -> list[list[ComponentPrediction]]:
    """Return the predictions of each window's components, in order, as plain numbers."""
    columns = zip(
        prediction.health_WV.tolist(),
        prediction.spread_WV.tolist(),
        prediction.rate_WV.tolist(),
        prediction.rul_WV.tolist(),
        prediction.rul_spread_WV.tolist(),
        prediction.probability_WVK.tolist(),
        prediction.distance_WV.tolist(),
        strict=True,
    )
    return [list(map(ComponentPrediction._make, zip(*window, strict=True))) for window in columns]


class Condition(NamedTuple):
    """A component's most probable grade and its probability."""

    name: str
    confidence: float


class Health(NamedTuple):
    """A component's health, its interval, and what they rest on."""

    health: float | None
    interval: tuple[float, float]
    basis: Basis


class RemainingLife(NamedTuple):
    """A component's remaining life and its interval, and why there is none or it may be longer."""

    rul_h: float | None
    interval_h: tuple[float, float] | None
    reason: str | None


UNTOLD = Health(None, (0.0, 1.0), "none")
NO_LIFE = RemainingLife(None, None, NO_WEAR_LABELS)


@dataclass(frozen=True, slots=True)
class PredictionDecoder:
    """What the version that answers was taught about one design.

    Args:
        version: its name.
        weights_sha256: of its weights.
        grades: by component id, grades that labels were trained on; a component that is not in it had no labels.
        trained_heads: by head (`grade`, `health`, `rate`, `rul`) the ids of the components that had a label for it; another one of the
            same type was never judged by anything.
        calibrations: by component id; one that is not in it is taken as the network states it.
    """

    version: str
    weights_sha256: str
    grades: Mapping[str, Sequence[Grade]]
    trained_heads: Mapping[Head, Sequence[str]]
    calibrations: Mapping[str, ComponentCalibration]

    @classmethod
    def of(
        cls,
        version: str,
        design: str,
        manifest: Manifest,
        spec: FeatureSpec,
        calibration: Calibration,
    ) -> Self:
        """Take what the documents of a version's checkpoint say of a design."""
        return cls(
            version=version,
            weights_sha256=manifest.sha256[WEIGHTS],
            grades=spec.grades.get(design, {}),
            trained_heads={
                head: designs.get(design, ()) for head, designs in manifest.trained_heads.items()
            },
            calibrations=calibration.components.get(design, {}),
        )

    def taught(self, head: Head, component: Component) -> bool:
        """Tell whether a head had labels of this component."""
        return component.component_id in self.trained_heads.get(head, ())

    def condition(self, component: Component, told: ComponentPrediction) -> Condition | None:
        """Return a component's condition, None where it has no grades or the network's answer is not finite."""
        grades = (
            self.grades.get(component.component_id, ()) if self.taught("grade", component) else ()
        )
        share_K = told.share_K[: len(grades)]
        if not grades or not all(map(isfinite, share_K)):
            return None
        best = max(share_K)
        return Condition(grades[share_K.index(best)].name, unit(best))

    def doubt(
        self, component: Component, told: ComponentPrediction, condition: Condition | None
    ) -> str:
        """Say why a component abstains in a window that lacks a sensor whose evidence could reach it. Empty if it does not.

        Held-out windows whose sensors were taken away showed answers as unsure as this to be wrong too often.
        """
        held_to, name = self._held_to(component), component.component_id
        if condition is not None:
            if condition.confidence >= held_to.least_confidence:
                return ""
            needed = f"the condition of '{name}' with a confidence of at least {held_to.least_confidence:.1%}"
            found = f"{condition.confidence:.1%}"
        else:
            if (
                held_to.most_spread is None
                or not self.taught("health", component)
                or not told.spread > held_to.most_spread
            ):
                return ""
            needed = f"the health of '{name}' with a spread of at most {held_to.most_spread:.3f}"
            found = f"{told.spread:.3f}"
        return f"expected {needed}, found {found}: bring the missing sensors back, and inspect '{name}' meanwhile"

    def health(self, component: Component, told: ComponentPrediction, novelty: float) -> Health:
        """Return a component's health as labels taught it, else by how usual its readings are (NaN where that is not known)."""
        if self.taught("health", component):
            reach = self._held_to(component).health_reach * told.spread
            if not (isfinite(told.health) and isfinite(reach)):
                return UNTOLD
            return Health(
                unit(told.health), (unit(told.health - reach), unit(told.health + reach)), "labels"
            )
        return Health(unit(novelty), (0.0, 1.0), "novelty") if isfinite(novelty) else UNTOLD

    def rate(
        self, component: Component, told: ComponentPrediction
    ) -> tuple[float | None, str | None]:
        """Return health lost per 1000 operating hours, or why it can't be told."""
        if not self.taught("rate", component):
            return None, NO_WEAR_LABELS
        return (told.rate, None) if isfinite(told.rate) else (None, NOT_FINITE)

    def remaining_life(self, component: Component, told: ComponentPrediction) -> RemainingLife:
        """Return a component's remaining life in operating hours."""
        if not self.taught("rul", component):
            return NO_LIFE
        held_to = self._held_to(component)
        reach_h = held_to.rul_reach * told.rul_spread_h
        if not (isfinite(told.rul_h) and isfinite(reach_h)):
            return RemainingLife(None, None, NOT_FINITE)
        cap_h = inf if held_to.rul_cap_h is None else round(held_to.rul_cap_h, DIGITS)
        rul_h = min(max(0.0, told.rul_h), cap_h)
        low_h, high_h = (
            round(max(0.0, rul_h - reach_h), DIGITS),
            round(min(cap_h, rul_h + reach_h), DIGITS),
        )
        if rul_h < AT_CAP * cap_h:
            return RemainingLife(round(rul_h, DIGITS), (low_h, high_h), None)
        reason = f"training looks no further than {cap_h:g} operating hours ahead: it may be longer"
        return RemainingLife(cap_h, (low_h, cap_h), reason)

    def _held_to(self, component: Component) -> ComponentCalibration:
        return self.calibrations.get(component.component_id, AS_STATED)


def unit(value: float) -> float:
    """Bring a number into [0, 1] and to the decimals that are told; one that is not a number to 0."""
    if not value > 0.0:
        return 0.0
    return 1.0 if value >= 1.0 else round(value, DIGITS)
