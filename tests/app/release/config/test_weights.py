"""Weights: parsing and sharing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InputError
from app.release.config.weights import (
    parse_steps,
    parse_weights,
    with_promoted,
    with_share,
)
from app.serving.ingress.traffic import Traffic


def test_weights_are_read():
    assert parse_weights(["3=90", "4=10"]) == {"3": 90.0, "4": 10.0}


@pytest.mark.parametrize(
    "parts", [["3"], ["3=x"], ["=3"], ["3=-1", "4=101"], ["3=50"], ["3=50", "3=50"], ["3=nan"]]
)
def test_invalid_weights_are_refused(parts: list[str]):
    with pytest.raises(InputError, match="expected"):
        parse_weights(parts)


def test_steps_are_read():
    assert parse_steps("1,10,50,100") == (1, 10, 50, 100)


@pytest.mark.parametrize("text", ["", "0,10", "10,1", "10,10", "1,101", "x"])
def test_invalid_steps_are_refused(text: str):
    with pytest.raises(InputError, match="rise"):
        parse_steps(text)


def test_remainder_is_shared_in_proportion():
    assert with_share({"1": 75, "2": 25, "3": 0, "4": 0}, "3", 20) == {
        "1": 60,
        "2": 20,
        "3": 20,
        "4": 0,
    }


def test_only_version_keeps_all_traffic():
    with pytest.raises(InputError, match="nothing to promote"):
        with_share({"1": 100, "2": 0}, "1", 50)
    assert with_share({"1": 100, "2": 0}, "1", 100) == {"1": 100, "2": 0}


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(0, 10_000))
def test_shares_sum_to_100_and_none_is_negative(parts: list[int], share: int):
    total = sum(parts)
    weights = {str(place): 100 * part / total for place, part in enumerate(parts)} | {"new": 0.0}
    shared = with_share(weights, "new", share / 100)
    assert sum(shared.values()) == pytest.approx(100, abs=1e-6)
    assert min(shared.values()) >= -1e-9
    assert shared["new"] == share / 100


def traffic(**designs: list[str]) -> Traffic:
    """Return traffic of versions with designs; the first two have half of the weight each."""
    return Traffic.model_validate(
        {
            "releases": [
                {
                    "version": version,
                    "application": f"model-{version}",
                    "designs": names,
                    "weight": 50 if place < 2 else 0,
                }
                for place, (version, names) in enumerate(designs.items())
            ]
        }
    )


def test_promotion_changes_the_weights_of_all_where_others_serve_a_part_of_the_designs():
    split = with_promoted(traffic(a=["rig", "press"], b=["rig"]), "a", 100.0, None)
    assert (split.weights, dict(split.designs)) == ({"a": 100.0, "b": 0.0}, {})


def test_promotion_changes_single_designs_where_the_share_would_differ():
    split = with_promoted(traffic(a=["rig"], b=["press"], c=["rig", "press"]), "c", 10.0, None)
    assert split.weights == {"a": 50.0, "b": 50.0, "c": 0.0}
    assert split.designs == {"rig": {"a": 90.0, "c": 10.0}, "press": {"b": 90.0, "c": 10.0}}
