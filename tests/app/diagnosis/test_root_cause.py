"""The verdict of a diagnosis, and the ranking of components as the cause."""

from typing import NamedTuple

import numpy as np
import pytest

from app.features.sensor_faults import Fault
from app.features.sensor_screening import Finding
from app.schemas.diagnosis import Diagnosis
from tests.app.diagnosis.test_build import f32, make, output, press, scores_of

NAN = float("nan")
OFFSET = Finding("q", "offset", 12, 3.5, 8.25, masked=True)
WORN = (0.0, 0.1, 0.9)
"""Probabilities of the pump's grades; the last has the least health."""
NEW = (1.0, 0.0, 0.0)


class Case(NamedTuple):
    """What is found, and the verdict about it."""

    pump: tuple[float, float, float]
    findings: tuple[Finding, ...]
    unexplained: bool
    verdict: str


def diagnosis_of(case: Case, *, explain: bool = False, **changes: object) -> Diagnosis:
    contribution_VS = np.zeros((3, 3), np.float32) if explain else None
    faults = tuple(Fault(each.sensor_id, "implausible") for each in case.findings)
    scores = scores_of(output(case.pump), contribution_VS)
    return make(
        scores, faults=faults, findings=case.findings, unexplained=case.unexplained, **changes
    )


@pytest.mark.parametrize(
    "case",
    [
        Case(NEW, (), False, "none"),
        Case(WORN, (), False, "machine"),
        Case(NEW, (OFFSET,), False, "sensor"),
        Case(WORN, (OFFSET,), False, "both"),
        Case(WORN, (), True, "undecided"),
    ],
    ids=lambda case: case.verdict,
)
def test_verdict_names_who_is_to_blame(case: Case) -> None:
    # the range novelty of the other components says nothing against them
    found = diagnosis_of(case, range_novelty_V=f32(1.0, 1.0, NAN))
    assert found.verdict == case.verdict
    assert bool(found.root_cause) == (case.verdict in ("machine", "both"))


def test_fault_of_a_sensor_has_its_kind_begin_and_size() -> None:
    found = diagnosis_of(Case(NEW, (OFFSET,), False, "sensor"))
    (fault,) = found.input.sensor_faults
    assert (fault.sensor_id, fault.kind, fault.size, fault.score) == ("q", "offset", 3.5, 8.25)
    assert (fault.since - found.window.start).total_seconds() == 12.0
    assert fault.masked
    assert [each.reason for each in found.input.faulty_sensors] == ["implausible"]
    assert Diagnosis.from_json(found.to_json()) == found


def test_components_are_ranked_by_lost_health_and_by_the_counterfactual() -> None:
    case = Case(WORN, (), False, "machine")
    by_health = diagnosis_of(case).root_cause
    names = [component.component_id for component in press().components]
    assert by_health[0].component_id == "pump"
    assert sum(each.score for each in by_health) == pytest.approx(1.0, abs=1e-3)
    even = Case(NEW, (), False, "none")
    blamed = diagnosis_of(
        even, explain=True, range_novelty_V=f32(1.0, 1.0, NAN), blame_V=f32(0.0, 200.0, 0.0)
    ).root_cause
    assert blamed[0].component_id == names[1]
    assert blamed[0].score > 0.9


def test_without_signatures_the_ranking_rests_on_health_alone() -> None:
    case = Case(WORN, (), False, "machine")
    unknown = diagnosis_of(case, blame_V=f32(NAN, NAN, NAN)).root_cause
    equal = diagnosis_of(case, blame_V=f32(5.0, 5.0, NAN)).root_cause
    assert unknown[:2] == equal[:2]
