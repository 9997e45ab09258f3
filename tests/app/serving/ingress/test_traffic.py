"""Which version answers for which equipment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.serving.ingress.traffic import Machine, Release, Traffic, order_of_versions

PINNED = ["1", "2", "2", "2", "1", "1", "2", "1"]
IDS = [f"machine-{number}" for number in range(1_000)]


def traffic(**weights: float) -> Traffic:
    return Traffic(
        releases=tuple(
            Release(version=name[1:], application=f"model-{name[1:]}", weight=weight)
            for name, weight in weights.items()
        )
    )


def chosen(equipment_id: str, split: Traffic) -> str:
    return order_of_versions(Machine(equipment_id, "rig"), split)[0].version


def test_half_the_weight_gets_about_half_of_the_equipment():
    share = sum(chosen(equipment_id, traffic(v1=50, v2=50)) == "2" for equipment_id in IDS) / len(
        IDS
    )
    assert 0.45 < share < 0.55


def test_one_percent_gets_about_one_percent():
    ids = [f"excavator-{number}" for number in range(20_000)]
    share = sum(chosen(equipment_id, traffic(v1=99, v2=1)) == "2" for equipment_id in ids) / len(
        ids
    )
    assert 0.007 < share < 0.013


def test_all_weight_on_one_version_gets_all_equipment():
    assert {chosen(equipment_id, traffic(v1=100, v2=0)) for equipment_id in IDS} == {"1"}


def test_choice_is_the_same_in_every_process():
    # pinned: a change of the hash would move machines between versions on an upgrade
    assert [chosen(equipment_id, traffic(v1=50, v2=50)) for equipment_id in IDS[:8]] == PINNED


@given(low=st.integers(0, 100), high=st.integers(0, 100))
def test_raising_a_weight_only_adds_equipment(low: int, high: int):
    low, high = sorted((low, high))
    before = {item for item in IDS[:200] if chosen(item, traffic(v1=100 - low, v2=low)) == "2"}
    after = {item for item in IDS[:200] if chosen(item, traffic(v1=100 - high, v2=high)) == "2"}
    assert before <= after


@given(st.text(max_size=80))
def test_any_text_is_routed_and_only_versions_with_weight_are_fallbacks(equipment_id: str):
    order = order_of_versions(Machine(equipment_id, "rig"), traffic(v1=30, v2=70, v3=0))
    assert sorted(release.version for release in order) == ["1", "2"]
    assert order == order_of_versions(Machine(equipment_id, "rig"), traffic(v1=30, v2=70, v3=0))


@pytest.mark.parametrize("weights", [{"v1": 60, "v2": 60}, {"v1": 0}, {"v1": 99.9}])
def test_weights_that_do_not_sum_to_100_are_refused(weights: dict[str, float]):
    with pytest.raises(ValidationError, match="expected weights that sum to 100"):
        traffic(**weights)


@pytest.mark.parametrize("weight", [-1, 101, float("nan"), float("inf")])
def test_impossible_weight_is_refused(weight: float):
    with pytest.raises(ValidationError):
        Release(version="1", application="model-1", weight=weight)


def test_repeated_version_is_refused():
    release = Release(version="1", application="model-1", weight=50)
    with pytest.raises(ValidationError, match="each version once"):
        Traffic(releases=(release, release))


def test_unknown_key_of_a_release_is_refused():
    with pytest.raises(ValidationError, match="wieght"):
        Release.model_validate({"version": "1", "application": "model-1", "wieght": 100})


def test_shadow_may_have_any_weight_and_routes_nothing():
    split = traffic(v1=30, v2=70, v3=0)
    shadowed = Traffic(releases=split.releases, shadows=("2", "3"))
    assert [chosen(item, shadowed) for item in IDS] == [chosen(item, split) for item in IDS]


@pytest.mark.parametrize(
    ("shadows", "reason"),
    [(("9",), "shadows that are released, found 9"), (("1", "1"), "each shadow once")],
)
def test_shadow_that_is_not_released_once_is_refused(shadows: tuple[str, ...], reason: str):
    with pytest.raises(ValidationError, match=reason):
        Traffic(releases=traffic(v1=100).releases, shadows=shadows)


def designed(designs: dict[str, dict[str, float]] | None = None, **weights: float) -> Traffic:
    """Return traffic of versions r1, r2 (rig), p1, p2 (press) and b1 (both)."""
    of = {"r": ("rig",), "p": ("press",), "b": ("rig", "press")}
    return Traffic(
        releases=tuple(
            Release(version=name, application=name, weight=weight, designs=of[name[0]])
            for name, weight in weights.items()
        ),
        designs=designs or {},
    )


def answering(design: str, split: Traffic) -> set[str]:
    return {order_of_versions(Machine(each, design), split)[0].version for each in IDS[:200]}


def test_only_versions_of_the_design_answer_and_share_its_machines():
    split = designed(r1=80, p1=10, b1=10)
    assert answering("rig", split) == {"r1", "b1"}
    assert answering("press", split) == {"p1", "b1"}
    assert split.shares("press") == {"p1": 50.0, "b1": 50.0}
    assert split.shares("rig") == pytest.approx({"r1": 800 / 9, "b1": 100 / 9})


def test_version_of_another_design_is_no_fallback():
    order = order_of_versions(Machine("press-7", "press"), designed(r1=99, p1=1))
    assert [release.version for release in order] == ["p1"]


def test_design_whose_versions_have_no_weight_is_served_by_the_first_of_them_alone():
    split = designed(r1=100, p1=0, p2=0)
    order = order_of_versions(Machine("press-7", "press"), split)
    assert [release.version for release in order] == ["p1"]
    assert [release.version for release in split.in_service] == ["r1", "p1"]


def test_weights_of_a_design_replace_those_of_all_machines():
    split = designed({"press": {"p1": 50, "p2": 50}}, r1=90, p1=10, p2=0)
    assert answering("press", split) == {"p1", "p2"}
    assert answering("rig", split) == {"r1"}
    only = designed({"press": {"p2": 100, "p1": 0}}, r1=90, p1=10, p2=0)
    assert answering("press", only) == {"p2"}


def test_machine_of_a_design_that_no_version_serves_is_answered_as_by_the_weights():
    assert answering("crane", designed(r1=100, p1=0)) == {"r1"}


def test_choice_among_versions_of_a_design_does_not_depend_on_the_others():
    pair, more = designed(p1=50, p2=50), designed(r1=60, p1=20, p2=20)
    for each in IDS[:200]:
        machine = Machine(each, "press")
        assert order_of_versions(machine, pair)[0].version == (
            order_of_versions(machine, more)[0].version
        )


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"press": {"p1": 50}}, "for design 'press' that sum to 100, found 50"),
        ({"press": {"r1": 100}}, r"serve design 'press' \(p1\), found r1"),
        ({"press": {"p9": 100}}, r"serve design 'press' \(p1\), found p9"),
        ({"crane": {"r1": 100}}, "none is released"),
    ],
)
def test_weights_of_a_design_are_of_versions_that_serve_it(
    own: dict[str, dict[str, float]], reason: str
):
    with pytest.raises(ValidationError, match=reason):
        designed(own, r1=100, p1=0)
