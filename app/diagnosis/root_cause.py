"""Where the blame lies: with sensors or components, and which component is the origin.

A component's score joins its lost health, as the model predicts it, with a counterfactual: how much
less likely the deviation of all sensors is if the component were as new, and with it all that its
fault does to sensors along the graph (`blame_WV` of `app.features.sensor_screening`). Pure.
"""

from collections.abc import Sequence
from math import exp, isfinite

from app.diagnosis.input_quality import Thresholds, WindowQuality
from app.schemas.diagnosis import ComponentDiagnosis, RootCause, Verdict

TEMPER = 0.03
"""Weight of the counterfactual's log odds: it takes a window's numbers for independent evidence,
which they are not. Chosen of .01 to 1 on simulated excavators and robots; rankings on machines that
had no part in the choice: `tests.bench.fresh_machines`."""
LEAST_LOST = 0.02
"""Lost health that a component is ranked with at least: the model may be wrong about it."""
DIGITS = 4


def verdict_of(
    components: Sequence[ComponentDiagnosis], quality: WindowQuality, thresholds: Thresholds
) -> Verdict:
    """Return who is to blame.

    Args:
        components: of the machine.
        quality: of the window, with the findings about its sensors.
        thresholds: of the service; a component below `watch` is ill.

    Returns:
        `none` where nothing is; `undecided` where the sensors contradict each other without a few
        being at fault, or where nothing is found and no component is answered.
    """
    healths = [item.health for item in components if item.health is not None]
    is_ill = any(health < thresholds.watch for health in healths)
    if quality.unexplained:
        return "undecided"
    if quality.findings:
        return "both" if is_ill else "sensor"
    if is_ill:
        return "machine"
    return "none" if healths else "undecided"


def rank_causes(
    components: Sequence[ComponentDiagnosis], quality: WindowQuality
) -> tuple[RootCause, ...]:
    """Rank the components as the origin of the deviation, most likely first.

    Args:
        components: of the machine, in topology order; those without a health and without evidence
            of the counterfactual are left out.
        quality: of the window.

    Returns:
        Scores that sum to 1.
    """
    blames = quality.blame_V.tolist()
    known = [each for each in blames if isfinite(each)]
    highest = max(known, default=0.0)
    # without a signature, the counterfactual neither accuses nor clears a component
    usual = sorted(known)[len(known) // 2] if known else 0.0
    weights: list[tuple[float, str]] = []
    for item, blame in zip(components, blames, strict=True):
        if item.health is None and not isfinite(blame):
            continue
        lost = LEAST_LOST + (0.0 if item.health is None else 1.0 - item.health)
        odds = exp(TEMPER * ((blame if isfinite(blame) else usual) - highest))
        weights.append((lost * odds, item.component_id))
    total = sum(weight for weight, _ in weights)
    if not total:
        return ()
    ranked = sorted(weights, key=lambda each: -each[0])
    return tuple(RootCause(name, round(weight / total, DIGITS)) for weight, name in ranked)
