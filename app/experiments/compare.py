"""Compares two versions and states the verdict in a sentence.

Pure. Every sentence contains the figures that it rests on.
"""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np

from app.experiments.pairs import Floats, Pairs
from app.experiments.report import Accuracy, ComponentComparison, Experiment, Latency, Share
from app.experiments.verdict import (
    EQUIVALENCE_MARGIN,
    accuracy_of,
    differs,
    disagreement_of,
    health_difference_of,
    more_needed,
    share_of,
    truths_of,
    verdict_of,
)
from app.store.experiments import BEGINNING

_MAX_NAMES = 4
"""Components that a sentence lists."""


def compare(
    a: str, b: str, pairs: Pairs, *, repeated: int = 0, complete: bool = True
) -> Experiment:
    """Compare a version with another one.

    Args:
        a: The version to compare with; the first of each pair.
        b: The version that the verdict is about.
        pairs: At least one.
        repeated: Answers about a window, or part of one, that another answer covers.
        complete: Whether all answers were read.
    """
    truths = truths_of(pairs)
    verdict, elsewhere = verdict_of(truths, "by_window"), verdict_of(truths, "by_condition")
    more = more_needed(truths, "by_window") if verdict == "unknown" else None
    more_conditions = more_needed(truths, "by_condition") if elsewhere == "unknown" else None
    accuracies = {truth.component_id: accuracy_of(truth, len(truths)) for truth in truths}
    unanswered_2PC = np.isnan(pairs.health_2PC) & ~pairs.graded_2PC
    components = tuple(
        ComponentComparison(
            component_id=component_id,
            disagreement=disagreement_of(pairs, place),
            untold_a=int(unanswered_2PC[0, :, place].sum()),
            untold_b=int(unanswered_2PC[1, :, place].sum()),
            health_difference=health_difference_of(pairs, place),
            accuracy=accuracies.get(component_id),
        )
        for place, component_id in enumerate(pairs.component_ids)
    )
    disagreement = share_of(np.any(differs(pairs), axis=1))
    found = Experiment(
        a=a,
        b=b,
        verdict=verdict,
        sentence="",
        more=more,
        elsewhere=elsewhere,
        more_conditions=more_conditions,
        windows=len(pairs),
        machines=len(np.unique(pairs.machine_P)),
        repeated=repeated,
        complete=complete,
        start=BEGINNING + timedelta(microseconds=int(pairs.created_us_P.min())),
        end=BEGINNING + timedelta(microseconds=int(pairs.created_us_P.max())),
        disagreement=disagreement,
        abstained_a=int(pairs.abstained_2P[0].sum()),
        abstained_b=int(pairs.abstained_2P[1].sum()),
        latency_a=_latency(pairs.latency_2P[0]),
        latency_b=_latency(pairs.latency_2P[1]),
        components=components,
    )
    return found.model_copy(update={"sentence": sentence(found)})


def sentence(found: Experiment) -> str:
    """Return the verdict in words, with the figures that it rests on."""
    known = {
        item.component_id: item.accuracy for item in found.components if item.accuracy is not None
    }
    if not known:
        return (
            f"not yet known: no label says whether {found.b} or {found.a} is right. "
            f"{_differing(found.disagreement, found.components)}"
        )
    better = [
        _figures(found, name, each) for name, each in known.items() if each.verdict == "better"
    ]
    worse = [_figures(found, name, each) for name, each in known.items() if each.verdict == "worse"]
    match found.verdict:
        case "better" | "worse":
            others = [
                name for name, each in known.items() if each.verdict not in ("better", "worse")
            ]
            rest = f"; no difference is known at {_listed(others)}" if others else ""
            verdict = f"{found.b} is {found.verdict}: {_listed(better or worse)}{rest}"
        case "mixed":
            verdict = (
                f"{found.b} is better at some components and worse at others: {_listed(better)}; "
                f"but {_listed(worse)}"
            )
        case "alike":
            windows = max(each.windows for each in known.values())
            verdict = (
                f"{found.b} is as good as {found.a}: within {EQUIVALENCE_MARGIN:.0%} at "
                f"{_listed(list(known))}, by {windows} labelled windows"
            )
        case _:
            furthest = max(known, key=lambda name: abs(known[name].difference))
            return (
                f"not yet known, {_about(found.more, 'labelled windows')}: so far "
                f"{_figures(found, furthest, known[furthest])}"
            )
    return f"{verdict}. {_elsewhere(found, max(each.conditions for each in known.values()))}"


def _elsewhere(found: Experiment, conditions: int) -> str:
    by = f"by {conditions} machines or conditions of one"
    if found.elsewhere == found.verdict:
        return f"The same holds for others like these, {by}"
    if found.elsewhere == "unknown":
        return (
            f"Whether the same holds for others like these is not yet known, {by}: "
            f"{_about(found.more_conditions, 'of them')}"
        )
    return f"For others like these the verdict is {found.elsewhere}, {by}"


def _about(more: int | None, what: str) -> str:
    if more is None:
        return f"an unknown number of more {what}"
    # an estimate: two significant digits
    return f"about {float(f'{more:.2g}'):,.0f} more {what}"


def _figures(found: Experiment, component_id: str, accuracy: Accuracy) -> str:
    return (
        f"{component_id} right in {accuracy.b:.1%} with {found.b} and in {accuracy.a:.1%} with "
        f"{found.a} of {accuracy.windows} labelled windows"
    )


def _differing(disagreement: Share, components: Sequence[ComponentComparison]) -> str:
    if not disagreement.count:
        return f"They agree in all {disagreement.windows} windows"
    counts = {item.component_id: item.disagreement.count for item in components}
    order = sorted(counts, key=lambda name: -counts[name])
    parts = _listed([f"{name} in {counts[name]}" for name in order if counts[name]])
    return f"They differ in {disagreement.count} of {disagreement.windows} windows: {parts}"


def _listed(parts: Sequence[str]) -> str:
    shown = list(parts[:_MAX_NAMES])
    if len(parts) > _MAX_NAMES:
        shown.append(f"{len(parts) - _MAX_NAMES} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _latency(latency_P: Floats) -> Latency:
    p50, p95 = np.quantile(latency_P, [0.5, 0.95]).tolist()
    return Latency(p50_s=round(p50, 4), p95_s=round(p95, 4))
