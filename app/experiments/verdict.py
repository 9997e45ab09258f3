"""The verdict on two versions: which is right more often by labels, over all labelled components.

Two questions have two answers. On the compared machines and conditions, every labelled window
counts, however windows depend on each other. For other machines and conditions, windows of one
machine in one condition resemble each other, so their mean counts once: an error that lasts for a
week is one observation, not ten thousand.
All components share one probability of error, in equal parts; disagreement and health differences
decide nothing and have their own.
Pure. Invariant: of two versions that are equally often right, one is called better or worse with a
probability of at most `ALPHA` over all looks, as long as errors in different windows are
independent and labels do not depend on the answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.experiments.confidence import Sample, mean_interval, sample_of, side_of
from app.experiments.pairs import ABSENT, Booleans, Pairs
from app.experiments.report import Accuracy, ComponentVerdict, HealthDifference, Share, Verdict

ALPHA = 0.05
EQUIVALENCE_MARGIN = 0.01
"""Difference in accuracy below which two versions are equally good."""
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Truth:
    """Scores of both versions about one labelled component.

    Args:
        component_id: The component.
        right_2: Mean score of each version, in [0, 1].
        by_window: Difference of the scores in each window, mapped from [-1, 1] to [0, 1].
        by_condition: Its mean over the windows of one machine in one condition, mapped likewise.
    """

    component_id: str
    right_2: tuple[float, float]
    by_window: Sample
    by_condition: Sample


Decider = Literal["by_window", "by_condition"]
"""The unit of observation: a window, or a machine in one condition."""


def truths_of(pairs: Pairs) -> tuple[Truth, ...]:
    """Return the scores of each labelled component."""
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
    """Return how the second version compares with the first, over all components.

    Args:
        truths: Scores of the labelled components; the verdict is `unknown` without any.
        decider: The unit of observation.
        times: Multiplies the number of observations, to extrapolate.
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
    margin = EQUIVALENCE_MARGIN / 2  # differences are mapped from [-1, 1] to [0, 1]
    above = side_of(sample, 0.5 - margin, alpha, times) > 0
    return "alike" if above and side_of(sample, 0.5 + margin, alpha, times) < 0 else "unknown"


def more_needed(truths: Sequence[Truth], decider: Decider) -> int | None:
    """Estimate how many more observations, like those so far, decide the verdict.

    Returns:
        Windows or conditions of the component with most of them; 0 when it is decided, None
        without labels or when no number would do.
    """
    low, high = 1.0, 1e9
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
    """Return the accuracy at one of the components that share the probability of error."""
    alpha = ALPHA / components
    a, b = truth.right_2
    return Accuracy(
        windows=truth.by_window.size,
        conditions=truth.by_condition.size,
        a=round(a, _DIGITS),
        b=round(b, _DIGITS),
        difference=round(b - a, _DIGITS),
        interval=_difference_interval(truth.by_window, alpha),
        verdict=component_verdict(truth, "by_window", alpha),
        elsewhere=component_verdict(truth, "by_condition", alpha),
    )


def differs(pairs: Pairs) -> Booleans:
    """Return where the answers differ, [P, C]."""
    return np.asarray(pairs.answer_2PC[0] != pairs.answer_2PC[1])


def share_of(differs_N: Booleans) -> Share:
    """Return the number of windows that differ, of N, with its interval."""
    low, high = mean_interval(sample_of(differs_N.astype(np.float64), 0.0, 1.0), ALPHA)
    return Share(
        count=int(differs_N.sum()),
        windows=len(differs_N),
        interval=(round(low, _DIGITS), round(high, _DIGITS)),
    )


def disagreement_of(pairs: Pairs, place: int) -> Share:
    """Return in how many windows the answers about a component differ."""
    present_P = (pairs.answer_2PC[:, :, place] != ABSENT).any(axis=0)
    return share_of(differs(pairs)[present_P, place])


def health_difference_of(pairs: Pairs, place: int) -> HealthDifference | None:
    """Return the mean difference in health; None when no window has both."""
    difference_P = pairs.health_2PC[1, :, place] - pairs.health_2PC[0, :, place]
    difference_N = difference_P[np.isfinite(difference_P)]
    if not len(difference_N):
        return None
    return HealthDifference(
        windows=len(difference_N),
        mean=round(float(difference_N.mean()), _DIGITS),
        interval=_difference_interval(sample_of(difference_N, -1.0, 1.0), ALPHA),
    )


def _difference_interval(sample: Sample, alpha: float) -> tuple[float, float]:
    """Return the interval of a mean difference, mapped back from [0, 1] to [-1, 1]."""
    low, high = mean_interval(sample, alpha)
    return round(2 * low - 1, _DIGITS), round(2 * high - 1, _DIGITS)
