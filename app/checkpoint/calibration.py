"""`calibration.json`: reach of intervals and thresholds of abstention, from held-out windows.

`train.evaluation` measures them and `app.diagnosis.build` applies them. Invariant: a calibration
names only designs and graded components of its feature spec.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.core.errors import CheckpointError
from app.features.spec import FeatureSpec

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Reach = Annotated[float, Field(ge=0)]

SURE_HEALTH = 0.95
"""Predicted health from which a component without grades counts as new. Most are, and one reach
for all would cover these and hardly any of the others."""


class ComponentCalibration(BaseModel):
    """Calibration of one component.

    Args:
        health_reach: half width of the interval of health, in spreads, of an answer that is sure:
            of a graded component, where the probability of its condition is at least
            `Calibration.coverage`; of any other, where its health is at least `SURE_HEALTH`.
        unsure_reach: the same of all other answers; the default covers 90 % of any distribution
            (Chebyshev's inequality), for files that lack it.
        rul_reach: half width of the interval of remaining life, in spreads.
        rate_reach: half width of the interval of the degradation rate, in health per 1000 operating
            hours; None where no held-out window had a rate.
        least_confidence: while sensors are missing or faulty, a component whose grade has a lower
            confidence abstains.
        most_spread: while sensors are missing or faulty, a component without grades whose health
            has a larger spread abstains; None for no bound.
        rul_cap_h: cap of remaining life in training, in operating hours; None without a cap.
    """

    model_config = _STRICT

    health_reach: Reach = 1.645
    unsure_reach: Reach = 3.162
    rul_reach: Reach = 1.645
    rate_reach: Reach | None = None
    least_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    most_spread: Reach | None = None
    rul_cap_h: Annotated[float, Field(gt=0)] | None = None


UNCALIBRATED = ComponentCalibration()
"""For a component without held-out windows: assumes a normal distribution."""


class Calibration(BaseModel):
    """`calibration.json`: coverage of the intervals, and components by design and id."""

    model_config = _STRICT

    coverage: Annotated[float, Field(gt=0, lt=1)] = 0.9
    components: Mapping[str, Mapping[str, ComponentCalibration]] = Field(default_factory=dict)

    def of(self, design: str, component_id: str) -> ComponentCalibration:
        """Return a component's calibration, `UNCALIBRATED` where there is none."""
        return self.components.get(design, {}).get(component_id, UNCALIBRATED)


def check_calibration(calibration: Calibration, spec: FeatureSpec, where: str) -> None:
    """Check that a calibration belongs to a feature spec.

    Args:
        calibration: of a checkpoint.
        spec: of the same checkpoint.
        where: name of its file, for the message.

    Raises:
        CheckpointError: it names a design without references in the spec, or has a confidence
            threshold of a component without grades.
    """
    for design, components in calibration.components.items():
        if design not in spec.references:
            raise CheckpointError(
                f"expected designs of the feature spec ({', '.join(spec.references)}) in "
                f"'{where}', found '{design}': take both from one training"
            )
        graded = spec.grades.get(design, {})
        for component_id, found in components.items():
            if found.least_confidence > 0 and component_id not in graded:
                raise CheckpointError(
                    f"expected a least_confidence in '{where}' only of components with grades "
                    f"({', '.join(graded) or 'none'}), found one of '{component_id}' of design "
                    f"'{design}': take both from one training, or leave it 0"
                )
