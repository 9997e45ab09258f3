"""Which evidence can reach a component."""

from tests.small import press
from train.reach import reach, sensors_in_reach


def test_messages_reach_along_the_evidence() -> None:
    assert reach(press(), 0) == {0, 1}
    assert reach(press(), 2) == {0, 1, 2}
    assert reach(press().model_copy(update={"connections": ()}), 2) == {2}


def test_sensors_in_reach_are_those_of_the_components_in_reach() -> None:
    assert sensors_in_reach(press(), 0) == [0, 1, 2]
    assert sensors_in_reach(press(), 2) == [0, 1, 2, 3]
