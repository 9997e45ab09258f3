"""The verdict on two versions: which is right more often, by labels, at every component that has them.

Two questions have two answers. Which was right more often on what was compared: every labelled window counts, and however windows
depend on each other, it holds for the machines and conditions that there were. Whether that goes for other machines and conditions too: windows
of one machine in one condition resemble each other, so they count once together, by their mean. An error that lasts for a
week is one observation of that kind, not ten thousand.
All components share one probability of error, in equal parts; disagreement and health differences decide nothing and have their own.
Pure. Invariant: of two versions that are equally often right one is called better or worse with a probability of at most `ALPHA`,
however often somebody looks, as long as errors in different windows are independent and labels do not come because of what was told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.experiments.confidence import Sample, mean_interval, sample_of, side_of
from app.experiments.pairs import ABSENT, Booleans, Pairs
from app.experiments.report import Accuracy, ComponentVerdict, HealthDifference, Share, Verdict

ALPHA = 0.05
MATTERS = 0.01
"""Difference in accuracy, as a share, below which two versions are as good as each other."""
_SOONEST, _LATEST = 1.0, 1e9
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Truth:
    """How right both versions were about one component where labels say.

    Args:
        component_id: of the component.
        right_2: mean over windows, in [0, 1].
        by_window: difference of the two in each window, mapped from [-1, 1] to [0, 1].
        by_condition: its mean over the windows of one machine in one condition, likewise.
    """

    component_id: str
    right_2: tuple[float, float]
    by_window: Sample
    by_condition: Sample


Decider = Literal["by_window", "by_condition"]
"""What counts once: a window, or a machine in one condition."""


def truths_of(pairs: Pairs) -> tuple[Truth, ...]:
    """Return what labels say, for each component that has any."""
    found = []
    for place, component_id in enumerate(pairs.component_ids):
        known_P = np.isfinite(pairs.score_2PC[0, :, place])
        if known_P.any():
            score_2N = pairs.score_2PC[:, known_P, place]
            difference_N = score_2N[1] - score_2N[0]
            _, condition_N = np.unique(pairs.condition_P[known_P], return_inverse=True)
            mean_L = np.bincount(condition_N, weights=difference_N) / np.bincount(condition_N)
            first, second = score_2N.mean(axis=1).tolist()
            found.append(
                Truth(
                    component_id,
                    (first, second),
                    sample_of(difference_N, -1.0, 1.0),
                    sample_of(mean_L, -1.0, 1.0),
                )
            )
    return tuple(found)


def verdict_of(truths: Sequence[Truth], decider: Decider, times: float = 1.0) -> Verdict:
    """Return how the second version compares with the first, by all components together.

    Args:
        truths: what labels say; `unknown` when there are none.
        decider: what counts once.
        times: as if each had come so many times; for looking ahead.
    """
    found = {component_verdict(truth, decider, ALPHA / len(truths), times) for truth in truths}
    if {"better", "worse"} <= found:
        return "mixed"
    if "better" in found:
        return "better"
    if "worse" in found:
        return "worse"
    return "alike" if found == {"alike"} else "unknown"


def component_verdict(
    truth: Truth, decider: Decider, alpha: float, times: float = 1.0
) -> ComponentVerdict:
    """Return how the second version compares with the first at one component."""
    sample: Sample = getattr(truth, decider)
    side = side_of(sample, 0.5, alpha, times)
    if side:
        return "better" if side > 0 else "worse"
    # differences are mapped from [-1, 1] to [0, 1]
    above = side_of(sample, 0.5 - MATTERS / 2, alpha, times) > 0
    return "alike" if above and side_of(sample, 0.5 + MATTERS / 2, alpha, times) < 0 else "unknown"


def more_needed(truths: Sequence[Truth], decider: Decider) -> int | None:
    """Return about how many more make the verdict known, if they are like those so far.

    Returns:
        Windows or conditions of the component with most of them; 0 when it is known, None without labels or when no number would do.
    """
    low, high = _SOONEST, _LATEST
    if not truths or verdict_of(truths, decider, high) == "unknown":
        return None
    if verdict_of(truths, decider, low) != "unknown":
        return 0
    while high > 1.001 * low:
        middle = (low * high) ** 0.5
        if verdict_of(truths, decider, middle) == "unknown":
            low = middle
        else:
            high = middle
    samples: list[Sample] = [getattr(truth, decider) for truth in truths]
    return max(1, round((high - 1.0) * max(sample.size for sample in samples)))


def accuracy_of(truth: Truth, components: int) -> Accuracy:
    """Return how right both were about a component, one of so many that share the probability of error."""
    alpha = ALPHA / components
    low, high = mean_interval(truth.by_window, alpha)
    a, b = truth.right_2
    return Accuracy(
        windows=truth.by_window.size,
        conditions=truth.by_condition.size,
        a=round(a, _DIGITS),
        b=round(b, _DIGITS),
        difference=round(b - a, _DIGITS),
        interval=(round(2 * low - 1, _DIGITS), round(2 * high - 1, _DIGITS)),
        verdict=component_verdict(truth, "by_window", alpha),
        elsewhere=component_verdict(truth, "by_condition", alpha),
    )


def differs(pairs: Pairs) -> Booleans:
    """Return where the two told different things, [P, C]."""
    return np.asarray(pairs.told_2PC[0] != pairs.told_2PC[1])


def share_of(differs_N: Booleans) -> Share:
    """Return how many of N windows, with its interval."""
    low, high = mean_interval(sample_of(differs_N.astype(np.float64), 0.0, 1.0), ALPHA)
    return Share(
        count=int(differs_N.sum()),
        windows=len(differs_N),
        interval=(round(low, _DIGITS), round(high, _DIGITS)),
    )


def disagreement_of(pairs: Pairs, place: int) -> Share:
    """Return in how many windows the two told different things of a component."""
    there_P = (pairs.told_2PC[:, :, place] != ABSENT).any(axis=0)
    return share_of(differs(pairs)[there_P, place])


def health_difference_of(pairs: Pairs, place: int) -> HealthDifference | None:
    """Return how far apart the healths of a component lie; None where no window has both."""
    difference_P = pairs.health_2PC[1, :, place] - pairs.health_2PC[0, :, place]
    difference_N = difference_P[np.isfinite(difference_P)]
    if not len(difference_N):
        return None
    low, high = mean_interval(sample_of(difference_N, -1.0, 1.0), ALPHA)
    return HealthDifference(
        windows=len(difference_N),
        mean=round(float(difference_N.mean()), _DIGITS),
        interval=(round(2 * low - 1, _DIGITS), round(2 * high - 1, _DIGITS)),
    )
