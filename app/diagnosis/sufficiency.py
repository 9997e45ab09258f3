"""Whether a component has enough usable evidence to be answered at all.

The rule: let n sensors lie within r connections of a component. A sensor's evidence is the number
of its steps with usable readings (present, and no fault of the sensor), as a share of the fewest
that training showed and at most 1 (`FeatureBatch.usable_WS`). For every r from 0 (the component's
own sensors) up to the number of connections over which evidence travels through the network, the
sum over the n sensors must be at least what training left of n sensors (`least_evidence`), and for
the largest r above 0. A component that the network was not trained to predict is judged by its own
sensors alone: r is 0.

Every sum only falls when evidence is taken away, and no limit depends on the window. So a
component that lacks evidence still lacks it with less. Evidence from further away, which the linear
skip also reads, does not count: what is missing there is imputed.

Shapes: W windows, S sensors, V components, L limits: one for each component and r, in this order.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.checkpoint.masking import Masking, least_evidence
from app.diagnosis.decoder import PredictionDecoder
from app.diagnosis.input_quality import MAX_NAMED, WindowQuality
from app.features.binning import Doubles, Floats
from app.schemas.equipment import Equipment
from app.schemas.places import some_of

Booleans = NDArray[np.bool_]

ROUNDING = 1e-6
"""Evidence by which a sum may fall short; what can be missing at least, a step, is 1/1000."""


class EvidencePlan(NamedTuple):
    """What the rule takes from a topology and a training.

    Args:
        sensor_P: positions of the sensors that each limit counts, those of one limit after those
            of the other.
        first_L: where they begin, and the end of the last, [L + 1].
        least_L: least evidence, in sensors.
        component_L: position of the component that each limit is of.
        is_own_L: whether it counts the component's own sensors alone.
        blind: predicted components that no sensor's evidence reaches.
        least_history: share from which on a sensor counts in full.
    """

    sensor_P: NDArray[np.int64]
    first_L: NDArray[np.int64]
    least_L: Doubles
    component_L: NDArray[np.int64]
    is_own_L: Booleans
    blind: tuple[int, ...]
    least_history: float


def plan_evidence(
    equipment: Equipment, masking: Masking, predicted: frozenset[str]
) -> EvidencePlan:
    """Gather what the rule takes from a topology and a training, once for an `Equipment`.

    Args:
        equipment: the topology.
        masking: of the training.
        predicted: ids of the components that the network was trained to predict.
    """
    return equipment.once(
        (EvidencePlan, masking, predicted), lambda: _plan(equipment, masking, predicted)
    )


def lacks_evidence(usable_WS: Floats, plan: EvidencePlan) -> Booleans:
    """Tell which limits are not met, [W, L].

    Args:
        usable_WS: see `WindowQuality.usable_S`; of windows of the plan's topology.
        plan: of the topology and the training.
    """
    if not len(plan.least_L):
        return np.zeros((len(usable_WS), 0), np.bool_)
    share_WP = np.minimum(usable_WS / plan.least_history, 1.0)[:, plan.sensor_P]
    found_WL = np.add.reduceat(share_WP, plan.first_L[:-1], axis=1, dtype=np.float64)
    lacks_WL: Booleans = found_WL < plan.least_L - ROUNDING
    return lacks_WL


def reasons_of_lack(
    equipment: Equipment, quality: WindowQuality, decoder: PredictionDecoder
) -> dict[int, str]:
    """Say why components lack evidence, by position; empty when none does.

    Args:
        equipment: the topology.
        quality: of the window.
        decoder: of the version that answers.
    """
    if quality.is_whole:
        return {}
    plan = plan_evidence(equipment, decoder.masking, decoder.predicted)
    reasons = {v: _reason_of_blind(equipment.components[v].component_id) for v in plan.blind}
    (lacks_L,) = lacks_evidence(quality.usable_S[None], plan)
    for limit in np.flatnonzero(lacks_L).tolist():
        v = int(plan.component_L[limit])
        if v not in reasons:  # the limit of the nearest sensors comes first
            reasons[v] = _reason(equipment, quality.usable_S, plan, limit)
    return dict(sorted(reasons.items()))


def _plan(equipment: Equipment, masking: Masking, predicted: frozenset[str]) -> EvidencePlan:
    sensor_P: list[int] = []
    first_L, least_L, component_L, is_own_L = [0], [], [], []
    blind: list[int] = []
    own_V: list[list[int]] = [[] for _ in equipment.components]
    for position, placed in enumerate(equipment.sensors):
        own_V[placed.component_index].append(position)
    for v, component in enumerate(equipment.components):
        is_predicted = component.component_id in predicted
        around = _components_near(equipment, v, masking.attention_layers if is_predicted else 0)
        near = [[s for each in sorted(components) for s in own_V[each]] for components in around]
        near = [each for each, more in pairwise(near) if len(each) < len(more)] + near[-1:]
        if is_predicted and not near[-1]:
            blind.append(v)
        for r, sensors in enumerate(near):
            some, every = least_evidence(masking, len(sensors))
            least = every if r == len(near) - 1 else some
            if sensors and least > 0.0:
                sensor_P += sensors
                first_L.append(len(sensor_P))
                least_L.append(least)
                component_L.append(v)
                is_own_L.append(r == 0)
    return EvidencePlan(
        sensor_P=np.array(sensor_P, np.int64),
        first_L=np.array(first_L, np.int64),
        least_L=np.array(least_L, np.float64),
        component_L=np.array(component_L, np.int64),
        is_own_L=np.array(is_own_L, np.bool_),
        blind=tuple(blind),
        least_history=masking.least_history,
    )


def _components_near(equipment: Equipment, v: int, connections: int) -> list[set[int]]:
    """Return the components whose evidence reaches one over at most 0, 1, ... connections."""
    found = [{v}]
    while len(found) <= connections and (len(found) == 1 or len(found[-1]) > len(found[-2])):
        found.append(found[-1].union(*(equipment.evidence_sources[each] for each in found[-1])))
    return found


def _reason(equipment: Equipment, usable_S: Floats, plan: EvidencePlan, limit: int) -> str:
    sensors = plan.sensor_P[plan.first_L[limit] : plan.first_L[limit + 1]]
    least, count = plan.least_L[limit], len(sensors)
    share_N = np.minimum(usable_S[sensors] / plan.least_history, 1.0)
    useless = [equipment.sensor_ids[s] for s in sensors[share_N < 1.0 - ROUNDING].tolist()]
    in_part = int(((share_N > 0.0) & (share_N < 1.0 - ROUNDING)).sum())
    found = str(count - len(useless)) + (f" and parts of {in_part}" if in_part else "")
    of_many = f"of at least {least:g} of the {count} sensors"
    of_one = f"in at least {least:.0%} of the steps of the sensor"
    name = equipment.components[plan.component_L[limit]].component_id
    return (
        f"expected usable readings {of_one if count == 1 else of_many} "
        f"{'on' if plan.is_own_L[limit] else 'that reach'} '{name}', "
        f"found {'none' if found == '0' else found}: check {some_of(useless, MAX_NAMED)}"
    )


def _reason_of_blind(name: str) -> str:
    return (
        f"expected sensors whose evidence reaches '{name}', found none: "
        "add them, or the connections to them, to the topology"
    )
