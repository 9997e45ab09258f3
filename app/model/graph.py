"""Graphs and predictions as plain numpy arrays: what travels between replicas and into the model.

Shape letters, the same in all of `app.model`: `W` windows that share one topology, `V` components
(nodes), `E` directed message edges, `S` sensors, `T` steps of a window, `F` features of a sensor at
a step, `D` hidden width, `H` attention heads, `M` members of the ensemble, `K` grades (padded to
the largest grade set), `G` grade sets, `C` channels that the linear skip adds to.

Does not import torch: graph builder, ingress and CPU replicas stay small.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.core.errors import WindowError
from app.features.binning import Floats
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment

CHANNELS = 3
"""C: channels of a component that skip and network share: score of the grades, logit of health,
and RUL before its softplus."""

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """The index arrays that all windows of one design share; int64, made by `build_topology`.

    Two topologies are equal when their digests are, so a topology is a key of caches.

    Args:
        sensor_component_S: component of each sensor; the sensors of a component lie together.
        sensor_quantity_S: number of its quantity in the feature spec.
        sensor_slot_S: number of its reference in the feature spec, -1 without one.
        component_type_V: number of the component's type in the feature spec.
        component_slot_V: number of the component in the feature spec, -1 where it has none.
        grade_set_V: number of its grade set in the feature spec, -1 without one.
        edge_index_2E: source and target of each message edge.
        edge_relation_E: twice the connection's medium, plus 1 against the connection's direction.
    """

    sensor_component_S: Integers
    sensor_quantity_S: Integers
    sensor_slot_S: Integers
    component_type_V: Integers
    component_slot_V: Integers
    grade_set_V: Integers
    edge_index_2E: Integers
    edge_relation_E: Integers
    digest: bytes = field(init=False)
    """Of all arrays, 16 bytes."""

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for each in fields(self)[:-1]:
            array = np.array(getattr(self, each.name), np.int64, order="C")
            array.flags.writeable = False  # the digest stays true
            digest.update(np.int64(array.size).tobytes() + array.tobytes())
            object.__setattr__(self, each.name, array)
        object.__setattr__(self, "digest", digest.digest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def sensors(self) -> int:
        """Return S."""
        return len(self.sensor_component_S)

    @property
    def components(self) -> int:
        """Return V."""
        return len(self.component_type_V)

    @property
    def size(self) -> int:
        """Return S + V + E: the time of a forward pass is in proportion to it and to the steps."""
        edges: int = self.edge_index_2E.shape[1]
        return self.sensors + self.components + edges


@dataclass(frozen=True, slots=True, eq=False)
class GraphGroup:
    """W windows of one topology.

    Args:
        topology: of all the windows.
        x_WSTF: float32 features, 0.0 where there is no reading.
        mask_WST: whether a sensor has readings in a step.
    """

    topology: Topology
    x_WSTF: Floats
    mask_WST: Booleans

    @property
    def windows(self) -> int:
        """Return W."""
        return len(self.mask_WST)

    @property
    def steps(self) -> int:
        """Return T."""
        steps: int = self.mask_WST.shape[2]
        return steps

    @property
    def cells(self) -> int:
        """Return W * T * (S + V + E): what a pass reads, computes and keeps in memory."""
        return self.windows * self.window_cells

    @property
    def window_cells(self) -> int:
        """Return the cells of one window."""
        return self.steps * self.topology.size

    def take(self, positions: Sequence[int] | Integers | slice) -> Self:
        """Return the windows at these positions, in their order."""
        return type(self)(self.topology, self.x_WSTF[positions], self.mask_WST[positions])

    def without_sensor(self, sensor: int) -> Self:
        """Return the windows as they are when one sensor has no readings at all."""
        x_WSTF, mask_WST = self.x_WSTF.copy(), self.mask_WST.copy()
        x_WSTF[:, sensor], mask_WST[:, sensor] = 0.0, False
        return type(self)(self.topology, x_WSTF, mask_WST)

    @classmethod
    def merge(cls, groups: Sequence["GraphGroup"]) -> Self:
        """Return the windows of several groups of one topology and one number of steps as one.

        Raises:
            WindowError: the groups differ in topology, steps or features.
        """
        shapes = {(group.topology, group.x_WSTF.shape[2:]) for group in groups}
        if len(shapes) != 1:
            raise WindowError(
                "expected windows of one topology, number of steps and number of features, found "
                f"{len(shapes)} different ones: send them as groups of their own"
            )
        return cls(
            groups[0].topology,
            np.concatenate([group.x_WSTF for group in groups]),
            np.concatenate([group.mask_WST for group in groups]),
        )


class SkipOutput(NamedTuple):
    """What the linear skip adds to the output of the network, float32.

    Args:
        skip_WVC: added to each channel of a component, see `app.model.skip`; 0 without a skip.
        deep_share_WVC: factor on the network's own channel; 1 without a skip.
    """

    skip_WVC: Floats
    deep_share_WVC: Floats

    @classmethod
    def none(cls, windows: int, components: int) -> Self:
        """Return the output for windows without a skip: the network alone."""
        shape = (windows, components, CHANNELS)
        return cls(np.zeros(shape, np.float32), np.ones(shape, np.float32))


class Prediction(NamedTuple):
    """The model's output for the W windows of a group, float32.

    An output of a head that was not trained means nothing; the manifest lists the trained heads.

    Args:
        probability_WVK: probability of each grade; NaN beyond a component's grades.
        health_WV: in [0, 1].
        spread_WV: standard deviation of health.
        rate_WV: health lost per 1000 operating hours.
        rul_WV: remaining useful life in operating hours.
        rul_spread_WV: its standard deviation.
        distance_WV: OOD distance, 1.0 where windows of held-out conditions begin to be outliers;
            NaN where it is not known.
    """

    probability_WVK: Floats
    health_WV: Floats
    spread_WV: Floats
    rate_WV: Floats
    rul_WV: Floats
    rul_spread_WV: Floats
    distance_WV: Floats

    @property
    def windows(self) -> int:
        """Return W."""
        return len(self.health_WV)

    def take(self, positions: Sequence[int] | Integers | slice) -> "Prediction":
        """Return the predictions of the windows at these positions, in their order."""
        return Prediction(*(array[positions] for array in self))

    @classmethod
    def merge(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """Return the predictions of several groups with equal numbers of components as one."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class Contributions(NamedTuple):
    """What each sensor contributes to the prediction of each component of one window; float32.

    The residuals of neighbouring sensors, which its readings changed, stay as they are.

    Args:
        health_VS: health without the sensor less health with it; positive where the sensor is
            evidence of a worse condition.
        distance_VS: OOD distance with the sensor less the distance without it; positive where its
            readings are unusual; NaN where either is not known.
    """

    health_VS: Floats
    distance_VS: Floats

    @classmethod
    def merge(cls, parts: Iterable["Contributions"]) -> "Contributions":
        """Return the contributions of all sensors from those of consecutive sensors."""
        return cls(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


def group_rows(rows: NDArray[np.generic]) -> dict[bytes, list[int]]:
    """Return the positions of equal rows by their bytes."""
    found: dict[bytes, list[int]] = {}
    for position, row in enumerate(rows):
        found.setdefault(row.tobytes(), []).append(position)
    return found


def build_topology(equipment: Equipment, spec: FeatureSpec) -> Topology:
    """Number a machine's topology by a spec's vocabularies.

    Args:
        equipment: the machine, or another one of the same topology.
        spec: feature spec of the checkpoint.

    Raises:
        WindowError: the topology has a quantity, type or medium that the spec has not.
    """
    component_of = {each.component_id: index for index, each in enumerate(equipment.components)}
    set_of = {name: index for index, name in enumerate(spec.grade_sets())}
    slot_of = {name: index for index, name in enumerate(spec.sensor_slots())}
    place_of = {name: index for index, name in enumerate(spec.component_slots())}
    design = equipment.design
    edges: list[tuple[int, int]] = []
    relations: list[int] = []
    for connection in equipment.connections:
        if connection.evidence == "none":
            continue
        source, target = component_of[connection.source], component_of[connection.target]
        medium = _number(connection.medium, spec.media, "medium")
        edges.append((source, target))
        relations.append(2 * medium)
        if connection.evidence == "both":
            edges.append((target, source))
            relations.append(2 * medium + 1)
    return Topology(
        sensor_component_S=_integers([component for component, _ in equipment.sensors]),
        sensor_quantity_S=_integers(
            [_number(each.quantity, spec.quantities, "quantity") for _, each in equipment.sensors]
        ),
        sensor_slot_S=_integers([slot_of.get((design, each), -1) for each in equipment.sensor_ids]),
        component_type_V=_integers(
            [_number(c.type, spec.component_types, "component type") for c in equipment.components]
        ),
        component_slot_V=_integers(
            [place_of.get((design, each.component_id), -1) for each in equipment.components]
        ),
        grade_set_V=_integers(
            [set_of.get((design, each.component_id), -1) for each in equipment.components]
        ),
        edge_index_2E=_integers(edges).reshape(-1, 2).T,
        edge_relation_E=_integers(relations),
    )


def _integers(values: Sequence[object]) -> Integers:
    return np.array(values, np.int64)


def _number(name: str, vocabulary: tuple[str, ...], kind: str) -> int:
    if name not in vocabulary:
        raise WindowError(
            f"expected a {kind} that the checkpoint knows ({', '.join(vocabulary)}), "
            f"found '{name}': correct the topology or retrain"
        )
    return vocabulary.index(name)
