"""The verdict and its sentence, on pairs with known truth."""

import numpy as np
import pytest

from app.experiments.compare import compare
from app.experiments.pairs import collect_pairs
from app.experiments.report import Experiment
from app.experiments.verdict import more_needed, truths_of, verdict_of
from tests.app.experiments.test_pairs import grade, predicted, row
from tests.pairs import only


def experiment(
    first: str, second: str, labels: str | None = None, *, machines: int = 1
) -> Experiment:
    """Compare versions 3 and 4 by one letter per window and label; '-' is an abstention."""

    def answer(letter: str):
        return (predicted(None, None, "unknown") if letter == "-" else predicted(letter),)

    rows = [
        row(
            number,
            answer(a),
            answer(b),
            *([grade(labels[number])] if labels else []),
            machine=f"m{number % machines}",
        )
        for number, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    return compare("3", "4", collect_pairs(rows[::-1]))


def test_version_that_is_right_more_often_is_better():
    better = experiment("a" * 200, "b" * 60 + "a" * 140, "b" * 60 + "a" * 140, machines=200)
    assert (better.verdict, better.elsewhere, better.more) == ("better", "better", None)
    assert better.sentence == (
        "4 is better: pump right in 100.0% with 4 and in 70.0% with 3 of 200 labelled windows. "
        "The same holds for others like these, by 200 machines or conditions of one"
    )
    worse = experiment("b" * 60 + "a" * 140, "a" * 200, "b" * 60 + "a" * 140, machines=200)
    assert (worse.verdict, worse.elsewhere) == ("worse", "worse")
    assert worse.sentence.startswith("4 is worse: pump right in 70.0% with 4 and in 100.0% with 3")


def test_lasting_error_decides_the_compared_machines_only():
    # one machine, always wrong in one of two conditions: two observations
    found = experiment("a" * 300, "b" * 100 + "a" * 200, "b" * 100 + "a" * 200)
    assert (found.verdict, found.elsewhere) == ("better", "unknown")
    assert (
        "Whether the same holds for others like these is not yet known, by 2 machines or "
        "conditions of one: about" in found.sentence
    )
    assert found.more_conditions is not None
    assert 2 < found.more_conditions < 100


def test_few_labels_are_undecided_with_an_estimate_of_how_many_more():
    found = experiment("aaaaaaaaaa", "aaabaaaaaa", "a" * 10, machines=10)
    assert (found.verdict, found.components[0].accuracy is not None) == ("unknown", True)
    assert found.sentence.startswith("not yet known, about ")
    assert (
        "so far pump right in 90.0% with 4 and in 100.0% with 3 of 10 labelled windows"
        in found.sentence
    )
    assert found.more is not None
    assert 20 < found.more < 200


def test_estimate_of_how_many_more_is_within_a_factor_of_two():
    generator = np.random.default_rng(0)
    needed, estimated = [], []
    for _ in range(30):
        wrong = generator.random(1500) < 0.05
        pairs = collect_pairs(
            [
                row(number, (predicted("a"),), (predicted("b" if each else "a"),), grade("a"))
                for number, each in enumerate(wrong)
            ][::-1]
        )
        counts = range(60, 1500, 20)
        looks = (truths_of(only(pairs, np.arange(count))) for count in counts)
        known = next(
            at
            for at, each in zip(counts, looks, strict=True)
            if verdict_of(each, "by_window") != "unknown"
        )
        more = more_needed(truths_of(only(pairs, np.arange(60))), "by_window")
        assert more is not None
        needed.append(known - 60)
        estimated.append(more)
    # from 60 windows with about three errors, at the median
    assert 0.5 < np.median(estimated) / np.median(needed) < 2


def test_without_labels_the_sentence_says_how_they_differ():
    found = experiment("a" * 50, "b" * 10 + "a" * 40)
    assert (found.verdict, found.more, found.elsewhere, found.components[0].accuracy) == (
        "unknown",
        None,
        "unknown",
        None,
    )
    assert found.sentence == (
        "not yet known: no label says whether 4 or 3 is right. "
        "They differ in 10 of 50 windows: pump in 10"
    )
    assert found.disagreement.count == found.components[0].disagreement.count == 10
    low, high = found.disagreement.interval
    assert 0.05 < low < 0.2 < high < 0.5
    assert experiment("a" * 50, "a" * 50).sentence.endswith("They agree in all 50 windows")


def test_versions_that_hardly_differ_are_alike_after_enough_windows():
    found = experiment("a" * 1000, "a" * 1000, "a" * 1000, machines=1000)
    assert (found.verdict, found.elsewhere) == ("alike", "alike")
    assert found.sentence.startswith(
        "4 is as good as 3: within 1% at pump, by 1000 labelled windows"
    )
    few = experiment("a" * 100, "a" * 100, "a" * 100)
    assert few.verdict == "unknown"
    assert few.more is not None
    assert 100 < few.more < 900


def test_better_at_one_component_and_worse_at_another_is_mixed():
    both = (predicted("a"), predicted("a", name="valve"))
    rows = [
        row(
            number,
            both,
            (predicted("b"), predicted("b", name="valve")),
            grade("b"),
            grade("a", "valve"),
        )
        for number in range(100)
    ]
    found = compare("3", "4", collect_pairs(rows[::-1]))
    assert found.verdict == "mixed"
    assert found.sentence.startswith(
        "4 is better at some components and worse at others: pump right in 100.0% with 4"
    )
    assert "; but valve right in 0.0% with 4" in found.sentence


def test_abstentions_are_counted_and_score_zero():
    found = experiment("a" * 100, "-" * 30 + "a" * 70, "a" * 100, machines=100)
    (component,) = found.components
    assert (component.untold_a, component.untold_b, component.disagreement.count) == (0, 30, 30)
    assert found.verdict == "worse"
    assert component.health_difference is not None
    assert component.health_difference.windows == 70


def test_health_difference_has_an_interval_around_it():
    rows = [
        row(number, (predicted("a", 0.8),), (predicted("a", 0.75 + 0.01 * (number % 2)),))
        for number in range(400)
    ]
    (component,) = compare("3", "4", collect_pairs(rows[::-1])).components
    found = component.health_difference
    assert found is not None
    assert found.mean == pytest.approx(-0.045)
    low, high = found.interval
    assert -0.08 < low < -0.045 < high < -0.01


def test_abstentions_and_latencies_are_per_version():
    found = compare(
        "3",
        "4",
        collect_pairs([row(1, (predicted("a"),), (predicted("a"),))]),
        repeated=7,
        complete=False,
    )
    assert (found.windows, found.machines, found.repeated, found.complete) == (1, 1, 7, False)
    assert (found.abstained_a, found.abstained_b) == (0, 1)
    assert (found.latency_a.p50_s, found.latency_b.p95_s) == (0.1, 0.2)
    assert found.start == found.end
