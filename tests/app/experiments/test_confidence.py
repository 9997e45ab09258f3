"""The confidence sequence: hand-computed capital, order, coverage at every look."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.confidence import BETS_G, Sample, mean_interval, sample_of, side_of

ALPHA = 0.05
VALUES = st.lists(st.floats(-1, 1), min_size=1, max_size=60)


def test_capital_of_one_value_is_the_mean_of_the_bets():
    # one value of 1 against a mean of 0.5: each bet g pays 1 + g (1 / 0.5 - 1) = 1 + g
    pays = 1 + float(BETS_G.mean())
    one = Sample(np.array([1.0]), np.array([1.0]))
    assert side_of(one, 0.5, 2 / pays * 1.001) == 1
    assert side_of(one, 0.5, 2 / pays * 0.999) == 0
    assert side_of(one.mirrored, 0.5, 2 / pays * 1.001) == -1


def test_lower_bound_is_where_the_capital_suffices():
    ones = Sample(np.array([1.0]), np.array([20.0]))
    low, high = mean_interval(ones, ALPHA)
    capital = float(np.mean((1 + BETS_G * (1 / low - 1)) ** 20))
    assert capital == pytest.approx(2 / ALPHA, rel=1e-3)
    assert high == 1.0


def test_interval_without_values_is_everything():
    assert mean_interval(sample_of(np.array([]), -1.0, 1.0), ALPHA) == (0.0, 1.0)
    assert side_of(sample_of(np.array([]), -1.0, 1.0), 0.5, ALPHA) == 0


@given(VALUES)
def test_interval_holds_the_mean_and_is_mirrored_with_the_values(values: list[float]):
    sample = sample_of(np.array(values), -1.0, 1.0)
    low, high = mean_interval(sample, ALPHA)
    assert 0.0 <= low <= float(sample.value_U @ sample.count_U) / sample.size + 1e-9
    assert low <= high <= 1.0
    assert mean_interval(sample.mirrored, ALPHA) == pytest.approx((1 - high, 1 - low), abs=1e-6)


@given(VALUES, st.floats(0.05, 0.95), st.floats(1.0, 50.0))
def test_side_agrees_with_the_interval_and_with_values_that_come_again(
    values: list[float], mean: float, times: float
):
    sample = sample_of(np.array(values), -1.0, 1.0)
    low, high = mean_interval(sample, ALPHA)
    side = side_of(sample, mean, ALPHA)
    if low + 1e-6 < mean < high - 1e-6:
        assert side == 0
    if mean < low - 1e-6:
        assert side == 1
    if side:
        assert side_of(sample, mean, ALPHA, times) == side


@given(VALUES, st.randoms())
def test_order_does_not_count(values: list[float], random):
    shuffled = random.sample(values, len(values))
    assert mean_interval(sample_of(np.array(values), -1, 1), ALPHA) == mean_interval(
        sample_of(np.array(shuffled), -1, 1), ALPHA
    )


@pytest.mark.parametrize("kind", ["independent", "lasting", "drifting"])
def test_coverage_holds_at_every_look(
    kind: str,
):
    """At most 5 % of 200 sequences may leave the interval at any look, however dependent."""
    left = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        if kind == "independent":
            expected_N = np.full(300, 0.1)
        elif kind == "lasting":  # each level lasts for 30 values
            expected_N = np.repeat(generator.choice([0.0, 0.1, 0.6], 10), 30)
        else:
            expected_N = np.linspace(0.0, 0.4, 300)
        value_N = (generator.random(300) < expected_N).astype(np.float64)
        truth_N = np.cumsum(expected_N) / np.arange(1, 301)
        # at the true mean, both sides of the interval, after every value, as `side_of` computes it
        gain_N = [
            _capital(value_N[:count], float(truth_N[count - 1])) for count in range(10, 301, 10)
        ]
        left += max(gain_N) >= math.log(2 / ALPHA)
    assert left <= 10


def _capital(value_N: np.ndarray, mean: float) -> float:
    if not 0 < mean < 1:
        return 0.0
    sides = (value_N / mean, (1 - value_N) / (1 - mean))
    return max(
        float(np.log(np.mean(np.prod(1 + BETS_G * (side[:, np.newaxis] - 1), axis=0))))
        for side in sides
    )


def test_values_that_hardly_differ_need_fewer():
    generator = np.random.default_rng(0)
    widths = []
    for spread in (0.01, 0.1, 0.5):
        low, high = mean_interval(
            sample_of(np.clip(generator.normal(0, spread, 500), -1, 1), -1.0, 1.0), ALPHA
        )
        widths.append(high - low)
    assert widths == sorted(widths)
    assert widths[0] < 0.02
