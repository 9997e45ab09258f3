"""Where two diagnoses differ: conditions first, states where there are none."""

import pytest

from app.diagnosis.agreement import differing_components
from app.schemas.diagnosis import Diagnosis
from tests.app.diagnosis.test_build import make


def told(**changes: object) -> Diagnosis:
    diagnosis = make()
    first = diagnosis.components[0].model_copy(update=changes)
    return diagnosis.model_copy(update={"components": (first, *diagnosis.components[1:])})


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ({"condition": "100"}, {"condition": "100"}, False),
        ({"condition": "100"}, {"condition": "20"}, True),
        ({"condition": "100", "state": "healthy"}, {"condition": "100", "state": "watch"}, False),
        ({"condition": None, "state": "healthy"}, {"condition": None, "state": "watch"}, True),
        (
            {"condition": None, "state": "healthy", "health": 0.9},
            {"condition": None, "state": "healthy"},
            False,
        ),
        ({"condition": "100"}, {"condition": None, "state": "unknown"}, True),
        ({"condition": None, "state": "unknown"}, {"condition": "100"}, True),
        ({"condition": None, "state": "unknown"}, {"condition": None, "state": "healthy"}, True),
    ],
)
def test_component_differs_in_what_a_reader_acts_on(
    one: dict[str, object], other: dict[str, object], differs: bool
):
    first, second = told(**one), told(**other)
    assert differing_components(first, second) == (
        (first.components[0].component_id,) if differs else ()
    )


def test_diagnosis_agrees_with_itself():
    assert differing_components(make(), make()) == ()
