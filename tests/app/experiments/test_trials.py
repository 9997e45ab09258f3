"""Trials of the verdict on real checkpoints and labelled cycles, read after every 50 diagnoses.

`make bench` runs more of them and records the figures.
"""

from functools import cache

import numpy as np
import pytest

from app.checkpoint.files import load
from app.experiments.pairs import Pairs
from app.experiments.verdict import Decider
from tests.paired_diagnoses import (
    SHIPPED,
    accuracy,
    damaged,
    diagnose_cycles,
    false_verdicts,
    pairs_of,
    verdicts_on_worse_version,
)

TRIALS = 20


@cache
def pairs() -> Pairs:
    """Version 2 as shipped, and with noise of 0.3 spreads on its weights."""
    shipped = load(SHIPPED / "2")
    return pairs_of(diagnose_cycles(shipped), diagnose_cycles(shipped, predictor=damaged("2", 0.3)))


def test_damaged_version_has_the_stated_accuracy():
    right, wrong = accuracy(pairs())
    assert min(right.values()) > 0.97  # the rest are abstentions, which score 0
    assert wrong["accumulator"] == pytest.approx(0.89, abs=0.04)
    assert wrong["valve"] == pytest.approx(0.93, abs=0.03)
    assert int(np.isfinite(pairs().score_2PC[0]).any(axis=1).sum()) == 1129


@pytest.mark.parametrize("decider", ["by_window", "by_condition"])
def test_worse_version_is_called_worse(decider: Decider):
    trials = verdicts_on_worse_version(pairs(), TRIALS, decider)
    assert sum(trial.verdict == trial.last == "worse" for trial in trials) >= 19, trials
    assert max(trial.diagnoses for trial in trials if trial.verdict == "worse") < 600


@pytest.mark.parametrize("decider", ["by_window", "by_condition"])
def test_equal_versions_are_rarely_called_different(decider: Decider):
    assert false_verdicts(pairs(), TRIALS, decider) <= 1


def test_lasting_errors_count_once_per_condition():
    assert false_verdicts(pairs(), TRIALS, "by_condition", pairs().condition_P) <= 1
