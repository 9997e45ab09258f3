"""Trials of the verdict with real answers of real checkpoints on the rig's labelled cycles, read after every 50 diagnoses.

`make bench` runs more of them and writes the figures down.
"""

from functools import cache

import numpy as np
import pytest

from app.experiments.pairs import Pairs
from app.experiments.verdict import Decider
from tests.answers import (
    accuracy,
    answers,
    damaged,
    equals_told_apart,
    pairs_of,
    shipped,
    told_apart,
)

TRIALS = 20


@cache
def pairs() -> Pairs:
    """Version 1 as it is shipped, and with noise of 0.33 spreads on its weights."""
    return pairs_of(answers(shipped("1")), answers(damaged("1", 0.33)))


def test_the_damaged_version_is_worse_by_what_is_stated():
    right, wrong = accuracy(pairs())
    assert min(right.values()) > 0.97  # the rest are abstentions, which are not right either
    assert wrong["accumulator"] == pytest.approx(0.85, abs=0.04)
    assert wrong["valve"] == pytest.approx(0.90, abs=0.04)
    assert int(np.isfinite(pairs().score_2PC[0]).any(axis=1).sum()) == 1129


@pytest.mark.parametrize("decider", ["by_window", "by_condition"])
def test_worse_version_is_called_worse(decider: Decider):
    calls = told_apart(pairs(), TRIALS, decider)
    assert sum(call.verdict == call.last == "worse" for call in calls) >= 19, calls
    assert max(call.diagnoses for call in calls if call.verdict == "worse") < 600


@pytest.mark.parametrize("decider", ["by_window", "by_condition"])
def test_equal_versions_are_hardly_ever_told_apart_though_read_after_every_50(decider: Decider):
    assert equals_told_apart(pairs(), TRIALS, decider) <= 1


def test_errors_that_last_as_long_as_a_condition_do_not_count_as_many_elsewhere():
    assert equals_told_apart(pairs(), TRIALS, "by_condition", pairs().condition_P) <= 1
