"""Inconsistent settings are refused; configs of earlier releases are read."""

import pytest
from pydantic import ValidationError

from train.config import TrainConfig


@pytest.mark.parametrize(
    ("given", "least", "most", "elastic"),
    [("2", 2, 2, False), (3, 3, 3, False), ("1:4", 1, 4, True), ("auto", 2, 2, False)],
)
def test_workers_are_a_number_a_range_or_auto(
    given: object, least: int, most: int, *, elastic: bool
) -> None:
    config = TrainConfig.model_validate({"equipment": "press-1", "workers": given})
    assert (config.min_workers, config.max_workers, config.is_elastic) == (least, most, elastic)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("given", "gpus", "workers"),
    [("auto", 0, "2"), ("auto", 1, "1"), ("auto", 4, "4"), ("auto", 99, "16"), ("3", 4, "3")],
)
def test_workers_are_as_many_as_gpus_and_two_without_any(
    given: str, gpus: int, workers: str
) -> None:
    config = TrainConfig(equipment="press-1", workers=given, accumulate=2)
    assert config.placed(gpus).workers == workers
    assert TrainConfig(equipment="press-1").placed(0, most=0).workers == "1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": "4:2"}, "expected a number of workers, MIN:MAX"),
        ({"workers": "0"}, "expected a number of workers, MIN:MAX"),
        ({"equipment": None}, "expected one of equipment and design, found neither"),
        ({"design": "press"}, "expected one of equipment and design, found both"),
        ({"heads": 5}, "expected hidden to be a multiple of heads=5"),
        ({"patience": 3}, "expected a validation_share above 0 for patience"),
        ({"workers": "9", "batch": 8}, "at least a window for each of 9 workers"),
    ],
)
def test_inconsistent_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({"equipment": "press-1", **change})
