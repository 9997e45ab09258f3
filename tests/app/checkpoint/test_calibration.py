"""The calibration of a checkpoint: what it may hold and what it must fit."""

import pytest
from pydantic import ValidationError

from app.checkpoint.calibration import (
    UNCALIBRATED,
    Calibration,
    ComponentCalibration,
    check_calibration,
)
from app.core.errors import CheckpointError
from tests.small import small


def calibration(design: str, component_id: str, **values: float | None) -> Calibration:
    component = ComponentCalibration(**values)  # type: ignore[arg-type]
    return Calibration(components={design: {component_id: component}})


def test_component_without_a_calibration_is_taken_as_stated() -> None:
    found = calibration("press", "pump", health_reach=2.0)
    assert found.of("press", "pump").health_reach == 2.0
    assert found.of("press", "valve") == found.of("lathe", "pump") == UNCALIBRATED
    assert (UNCALIBRATED.health_reach, UNCALIBRATED.least_confidence, UNCALIBRATED.most_spread) == (
        1.645,
        0.0,
        None,
    )


def test_what_is_written_is_read_again() -> None:
    found = calibration("press", "pump", health_reach=2.0, most_spread=0.3, rul_cap_h=125.0)
    assert Calibration.model_validate_json(found.model_dump_json()) == found
    assert Calibration.model_validate_json("{}") == Calibration()


@pytest.mark.parametrize(
    "values",
    [
        {"health_reach": -0.1},
        {"rul_reach": float("inf")},
        {"health_reach": float("nan")},
        {"least_confidence": 1.1},
        {"most_spread": -1.0},
        {"rul_cap_h": 0.0},
        {"reach": 1.0},
    ],
)
def test_number_that_holds_no_answer_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ComponentCalibration(**values)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90.0])
def test_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(ValidationError):
        Calibration(coverage=coverage)


def test_calibration_fits_designs_and_grades_of_its_spec() -> None:
    spec = small().spec
    check_calibration(calibration("press", "valve", least_confidence=0.5), spec, "here")
    check_calibration(calibration("press", "tank", health_reach=2.0, most_spread=0.2), spec, "here")
    with pytest.raises(
        CheckpointError,
        match=r"expected designs of the feature spec \(press\) in 'here', found 'lathe'",
    ):
        check_calibration(calibration("lathe", "pump"), spec, "here")
    with pytest.raises(
        CheckpointError,
        match=r"only of components with grades \(pump, valve\), found one of 'tank'",
    ):
        check_calibration(calibration("press", "tank", least_confidence=0.5), spec, "here")
