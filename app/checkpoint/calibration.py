"""What held-out windows showed of a checkpoint's spreads and confidences: `calibration.json`, read without torch.

It says how far an interval reaches and when a component's answer is kept back;
`app.diagnosis.build` applies it, nothing here measures.
Invariant: a calibration that fits a feature spec names no design and no grades that the spec does
not know.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.core.errors import CheckpointError
from app.features.spec import FeatureSpec

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Reach = Annotated[float, Field(ge=0)]


class ComponentCalibration(BaseModel):
    """What an answer about one component is held to.

    Args:
        health_reach: half width of the interval of health, in spreads; of a graded component, where
            the probability of its condition is at least `Calibration.coverage`.
        unsure_reach: the same of a graded component below that; the default covers 90 % of any
            distribution (Chebyshev's inequality), and is that of files from before it was stated.
        rul_reach: the same of the interval of remaining life.
        least_confidence: while sensors are missing or faulty, a component whose grade has a lower
            confidence abstains.
        most_spread: a component without grades whose health has a larger spread then abstains; None
            for no bound.
        rul_cap_h: operating hours ahead that training looked, where remaining life was capped; None
            where it was not.
    """

    model_config = _STRICT

    health_reach: Reach = 1.645
    unsure_reach: Reach = 3.162
    rul_reach: Reach = 1.645
    least_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    most_spread: Reach | None = None
    rul_cap_h: Annotated[float, Field(gt=0)] | None = None


AS_STATED = ComponentCalibration()
"""Of a component without held-out windows: its spread is taken for that of a normal distribution."""


class Calibration(BaseModel):
    """`calibration.json`: stated coverage of the intervals, and components by design and id."""

    model_config = _STRICT

    coverage: Annotated[float, Field(gt=0, lt=1)] = 0.9
    components: Mapping[str, Mapping[str, ComponentCalibration]] = Field(default_factory=dict)

    def of(self, design: str, component_id: str) -> ComponentCalibration:
        """Return a component's calibration, `AS_STATED` where there is none."""
        return self.components.get(design, {}).get(component_id, AS_STATED)


def check_calibration(calibration: Calibration, spec: FeatureSpec, where: str) -> None:
    """Check that a calibration belongs to a feature spec.

    A spec lists the components that have grades; of the others it knows the design alone.

    Args:
        calibration: of a checkpoint.
        spec: of the same checkpoint.
        where: name of its file, for the message.

    Raises:
        CheckpointError: it names a design that the spec has no references of, or asks confidence of
            a component that the spec
            has no grades of.
    """
    for design, components in calibration.components.items():
        if design not in spec.references:
            raise CheckpointError(
                f"expected designs of the feature spec ({', '.join(spec.references)}) in '{where}', found '{design}': take "
                "both from one training"
            )
        graded = spec.grades.get(design, {})
        for component_id, found in components.items():
            if found.least_confidence > 0 and component_id not in graded:
                raise CheckpointError(
                    f"expected a least_confidence in '{where}' only of components with grades ({', '.join(graded) or 'none'}), "
                    f"found one of '{component_id}' of design '{design}': take both from one training, or leave it 0"
                )
