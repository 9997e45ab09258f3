"""The section `verdict`: how often and how soon the verdict on two versions is right.

`python -m tests.bench.verdict` runs it alone. The diagnoses are those of shipped and damaged
checkpoints on the rig's cycles. The worse version is version 2 with noise on its weights. Equal
versions are the same two with their diagnoses exchanged at random, per window or per stay of the
machine in one condition. Each trial has its own order and reads the verdict after every 50
diagnoses.
"""

import json
from typing import Any

import numpy as np

from app.checkpoint.files import load
from app.experiments.verdict import Decider
from tests.bench.compare import Bench
from tests.paired_diagnoses import (
    SHIPPED,
    Trial,
    accuracy,
    damaged,
    diagnose_cycles,
    false_verdicts,
    pairs_of,
    verdicts_on_worse_version,
)

NOISES = (0.1, 0.2, 0.3, 0.4, 0.5)
TRIALS = 20
EQUAL_TRIALS = 100
DECIDERS: tuple[Decider, ...] = ("by_window", "by_condition")


def measure(_: Bench) -> dict[str, object]:
    """Run the trials, which need no service."""
    return run_trials()


def run_trials() -> dict[str, object]:
    """Run the trials at each noise level.

    Returns:
        By noise: the accuracy of both versions by component; and by decider, how many trials called
            the worse version worse, after how many diagnoses, and how many called equal versions
            different.
    """
    shipped = diagnose_cycles(load(SHIPPED / "2"))
    found: dict[str, object] = {}
    for noise in NOISES:
        pairs = pairs_of(
            shipped, diagnose_cycles(load(SHIPPED / "2"), predictor=damaged("2", noise))
        )
        right, wrong = accuracy(pairs)
        entry: dict[str, Any] = {"right": right, "right_of_worse": wrong, "windows": len(pairs)}
        for decider in DECIDERS:
            entry[decider] = _summary(verdicts_on_worse_version(pairs, TRIALS, decider)) | {
                "equal_by_window_called_different": false_verdicts(pairs, EQUAL_TRIALS, decider),
                "equal_by_condition_called_different": false_verdicts(
                    pairs, EQUAL_TRIALS, decider, pairs.condition_P
                ),
                "equal_trials": EQUAL_TRIALS,
            }
            print(f"noise {noise:g}, {decider}: {entry[decider]}", flush=True)
        found[f"{noise:g}"] = entry
    return found


def _summary(trials: list[Trial]) -> dict[str, object]:
    right = [
        trial.diagnoses
        for trial in trials
        if trial.verdict == "worse" and trial.last in ("worse", "unknown")
    ]
    took = np.quantile(right, [0, 0.5, 1]).tolist() if right else None
    return {
        "trials": len(trials),
        "right": len(right),
        "wrong": sum(trial.verdict not in ("worse", "unknown") for trial in trials),
        "diagnoses_least_median_most": took,
    }


if __name__ == "__main__":
    print(json.dumps(run_trials(), indent=1))
