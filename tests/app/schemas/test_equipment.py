"""Which evidence can reach a component."""

from tests.small import press


def test_evidence_reaches_components_in_the_direction_of_connections():
    assert press().reached_from([0]) == {0, 1, 2}
    assert press().reached_from([2]) == {2}
    assert press().reached_from([]) == set()
    assert press().model_copy(update={"connections": ()}).reached_from([1]) == {1}


def test_sensors_in_reach_are_those_whose_evidence_reaches_the_component():
    assert press().sensors_in_reach(0) == [0, 1, 2]
    assert press().sensors_in_reach(2) == [0, 1, 2, 3]
