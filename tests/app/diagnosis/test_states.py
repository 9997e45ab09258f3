"""States with hysteresis, and where two diagnoses differ."""

from dataclasses import replace

import pytest

from app.diagnosis.states import differing_components
from app.schemas.diagnosis import Diagnosis
from tests.app.diagnosis.test_build import make


def changed(**changes: object) -> Diagnosis:
    diagnosis = make()
    first = replace(diagnosis.components[0], **changes)  # type: ignore[arg-type]
    return replace(diagnosis, components=(first, *diagnosis.components[1:]))


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
    first, second = changed(**one), changed(**other)
    assert differing_components(first, second) == (
        (first.components[0].component_id,) if differs else ()
    )


def test_diagnosis_agrees_with_itself():
    assert differing_components(make(), make()) == ()
