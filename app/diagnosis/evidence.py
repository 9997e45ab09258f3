"""Evidence of a diagnosis: the contribution of each sensor to health and to OOD distance."""

from collections.abc import Sequence
from math import isfinite

import numpy as np
import numpy.typing as npt

from app.diagnosis.decoder import DIGITS
from app.diagnosis.input_quality import WindowQuality
from app.model.graph import Contributions
from app.schemas.diagnosis import ComponentDiagnosis, DistanceEvidence, Evidence
from app.schemas.equipment import Equipment

F32 = npt.NDArray[np.float32]


def add_evidence(
    components: Sequence[ComponentDiagnosis],
    contributions: Contributions,
    quality: WindowQuality,
    equipment: Equipment,
) -> None:
    """Set the evidence of components.

    Args:
        components: of the machine, in topology order.
        contributions: of each sensor to each component.
        quality: of the window.
        equipment: the machine.
    """
    own_sensors: list[list[int]] = [[] for _ in equipment.components]
    for position, placed in enumerate(equipment.sensors):
        own_sensors[placed.component_index].append(position)
    sensor_ids = equipment.sensor_ids
    for index, component in enumerate(components):
        if component.basis == "labels":
            component.evidence = _of_health(contributions.health_VS[index], sensor_ids)
        elif component.basis == "novelty":
            component.evidence = _of_novelty(index, quality, own_sensors[index], sensor_ids)
        component.distance_evidence = _of_distance(contributions.distance_VS[index], sensor_ids)


def _of_health(contribution_S: F32, sensor_ids: Sequence[str]) -> tuple[Evidence, ...]:
    found = [
        (-abs(weight), place, weight)
        for place, weight in enumerate(contribution_S.tolist())
        if weight != 0.0 and isfinite(weight)
    ]
    found.sort()
    return tuple([Evidence(sensor_ids[place], round(weight, DIGITS)) for _, place, weight in found])


def _of_novelty(
    index: int, quality: WindowQuality, own_sensors: Sequence[int], sensor_ids: Sequence[str]
) -> tuple[Evidence, ...]:
    novelty, without_S = quality.range_novelty_V[index], quality.novelty_without_S
    # in float32 as both are, so that equal healths give 0
    found = [(sensor_ids[place], float(without_S[place] - novelty)) for place in own_sensors]
    found = [each for each in found if isfinite(each[1])]
    found.sort(key=lambda each: -each[1])
    return tuple([Evidence(name, round(weight, DIGITS)) for name, weight in found])


def _of_distance(contribution_S: F32, sensor_ids: Sequence[str]) -> tuple[DistanceEvidence, ...]:
    found = [
        (-rounded, place)
        for place, weight in enumerate(contribution_S.tolist())
        if isfinite(weight) and (rounded := round(weight, DIGITS)) > 0.0
    ]
    found.sort()
    return tuple([DistanceEvidence(sensor_ids[place], -weight) for weight, place in found])
