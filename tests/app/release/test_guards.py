"""Guards: measurements from the ingress's metrics, and when a guard breaks."""

import math
from collections.abc import Mapping

import pytest

from app.core.errors import InputError
from app.release.guards import (
    RECENT_S,
    Calls,
    Guard,
    Measurement,
    MetricsMeter,
    first_broken,
    parse_duration,
    parse_guards,
    read_calls,
    undecided,
)
from app.serving.observability.exposition import merge
from app.serving.observability.metrics import Metrics


def test_guards_are_read_with_their_units():
    assert parse_guards("errors<0.1%, p95 < 80ms,p95<2s") == (
        Guard("errors", pytest.approx(0.001), "errors<0.1%"),
        Guard("p95", pytest.approx(0.08), "p95 < 80ms"),
        Guard("p95", 2.0, "p95<2s"),
    )


@pytest.mark.parametrize(
    "text", ["errors", "errors>1%", "errors<", "errors<x%", "colour<1%", "errors<1%,,p95<1s"]
)
def test_invalid_guard_is_refused(text: str):
    with pytest.raises(InputError, match="expected"):
        parse_guards(text)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("p95<80", "p95 in ms or s"),
        ("p95<5%", "p95 in ms or s"),
        ("errors<0.01", "errors in %"),
        ("errors<1s", "errors in %"),
        ("disagreement<5", "disagreement in %"),
    ],
)
def test_wrong_unit_is_refused(text: str, units: str):
    with pytest.raises(InputError, match=f"expected {units}, such as .* found '{text}'"):
        parse_guards(text)


def test_durations_are_read():
    assert [parse_duration(text) for text in ("90s", "10m", "0.5h")] == [90, 600, 1800]
    with pytest.raises(InputError, match="such as 30s"):
        parse_duration("10")


class Version:
    """A version's calls, counted by an ingress replica."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def answer(
        self, calls: int, seconds: float, outcome: str = "answered", version: str = "3"
    ) -> None:
        for _ in range(calls):
            self.metrics.version_calls.labels(version, outcome).inc()
            self.metrics.version_seconds.labels(version).observe(seconds)

    @property
    def text(self) -> str:
        return self.metrics.exposition().decode()


def only(found: Mapping[str, Calls]) -> Calls:
    """Return the counters of the only replica."""
    (calls,) = found.values()
    return calls


def test_calls_of_one_version_are_read():
    version = Version()
    version.answer(90, 0.015)
    version.answer(10, 0.4, "failed")
    version.answer(50, 9.0, "failed", version="1")
    ((replica, calls),) = read_calls(version.text, "3", {"1"}).items()
    assert replica == version.metrics.replica_name
    assert (calls.ended, calls.failed) == (100, 10)
    assert calls.errors == Measurement(0.1, 100)
    # 90 ended within .02, all within .5, none between .02 and .2: p95 is halfway from .2 to .5
    assert calls.p95 == Measurement(pytest.approx(0.35), 100)


def test_time_beyond_the_last_bound_is_infinite():
    version = Version()
    version.answer(30, 60.0)
    assert only(read_calls(version.text, "3", {"1"})).p95 == Measurement(math.inf, 30)


def test_few_calls_measure_nothing():
    version = Version()
    version.answer(17, 9.0)
    version.answer(2, 9.0, "failed")
    calls = only(read_calls(version.text, "3", {"1"}))
    assert (calls.errors.value, calls.p95.value) == (None, None)


def test_few_failures_suffice_for_a_version_that_hangs():
    version = Version()
    version.answer(3, 10.0, "failed")
    assert only(read_calls(version.text, "3", {"1"})).errors == Measurement(1.0, 3)


def test_disagreement_counts_pairs_with_the_replaced_versions():
    version = Version()
    for shadow, against, outcome, count in (
        ("3", "1", "agreed", 15),
        ("1", "3", "agreed", 3),
        ("1", "3", "disagreed", 2),
        ("3", "1", "dropped", 50),
        ("3", "1", "failed", 50),
        ("2", "1", "disagreed", 50),
    ):
        version.metrics.shadow_copies.labels(shadow, against, outcome).inc(count)
    # a shadow that is no part of the promotion
    version.metrics.shadow_copies.labels("5", "3", "disagreed").inc(80)
    found = only(read_calls(version.text, "3", {"1"})).disagreement()
    assert (found.value, found.calls) == (0.1, 20)
    assert 0.0 < (found.lower or 0.0) < 0.1
    assert only(read_calls(version.text, "3", {"9"})).disagreement() == Measurement(None, 0)


@pytest.mark.parametrize(("disagreed", "breaks"), [(1, False), (2, False), (20, True)])
def test_guard_on_disagreement_breaks_beyond_chance(disagreed: int, breaks: bool):
    version = Version()
    version.metrics.shadow_copies.labels("3", "1", "disagreed").inc(disagreed)
    version.metrics.shadow_copies.labels("3", "1", "agreed").inc(20 - disagreed)
    found = only(read_calls(version.text, "3", {"1"})).disagreement()
    assert (
        first_broken(parse_guards("disagreement<5%"), {"disagreement": found}) is not None
    ) == breaks


async def test_only_pairs_since_the_step_began_count():
    version = Version()
    copies = version.metrics.shadow_copies
    copies.labels("3", "1", "disagreed").inc(100)

    async def fetch() -> str:
        return version.text

    meter = MetricsMeter(fetch, others={"1"}, clock=Clock())
    await meter.begin("3")
    copies.labels("3", "1", "agreed").inc(19)
    assert (await meter.measure())["disagreement"] == Measurement(None, 19)
    copies.labels("1", "3", "disagreed").inc(1)
    found = (await meter.measure())["disagreement"]
    assert (found.value, found.calls) == (0.05, 20)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_only_calls_since_the_step_began_count_over_all_replicas():
    replicas = [Version(), Version()]
    replicas[0].answer(100, 0.01, "failed")

    async def fetch() -> str:
        return merge(each.metrics.exposition() for each in replicas).decode()

    meter = MetricsMeter(fetch, others={"1"}, clock=Clock())
    await meter.begin("3")
    replicas[0].answer(20, 0.01)
    replicas[1].answer(19, 0.01)
    replicas[1].answer(1, 0.01, "failed")
    assert (await meter.measure())["errors"] == Measurement(pytest.approx(1 / 40), 40)


async def test_late_slowness_is_not_hidden_by_a_good_beginning():
    version, clock = Version(), Clock()

    async def fetch() -> str:
        return version.text

    meter = MetricsMeter(fetch, others={"1"}, clock=clock)
    await meter.begin("3")
    for _ in range(100):
        clock.now_s += 1.0
        version.answer(10, 0.004)
        assert ((await meter.measure())["p95"].value or 0) <= 0.005
    for _ in range(round(RECENT_S / 10)):
        clock.now_s += 1.0
        version.answer(10, 0.4)
        found = (await meter.measure())["p95"]
    assert found.value is not None
    assert found.value > 0.2


def test_guard_breaks_at_its_limit_and_not_without_a_measure():
    guards = parse_guards("errors<1%,p95<80ms")
    assert (
        first_broken(guards, {"errors": Measurement(0.009, 100), "p95": Measurement(0.07, 100)})
        is None
    )
    assert first_broken(guards, {"errors": Measurement(0.01, 100)}) == (
        guards[0],
        Measurement(0.01, 100),
    )
    assert first_broken(guards, {"errors": Measurement(None, 3)}) is None
    assert undecided(guards, {"errors": Measurement(0.0, 100)}) == (guards[1],)
