"""Graphs and predictions as plain numpy arrays: what travels between replicas and into the model.

Shape letters, the same in all of `app.model`: `W` windows that share one topology, `V` components
(nodes), `E` directed message edges, `S` sensors, `T` steps of a window, `F` features of a sensor at
a step, `D` hidden width, `H` attention heads, `M` members of the ensemble, `K` grades (padded to
the largest grade set), `G` grade sets.

Does not import torch: graph builder, ingress and CPU replicas stay small.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.core.errors import WindowError
from app.features.binning import Floats
from app.features.extraction import SensorFeatures
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment

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
        grade_set_V: number of its grade set in the feature spec, -1 without one.
        edge_index_2E: source and target of each message edge.
        edge_relation_E: twice the connection's medium, plus 1 against the connection's direction.
    """

    sensor_component_S: Integers
    sensor_quantity_S: Integers
    sensor_slot_S: Integers
    component_type_V: Integers
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
        return self.mask_WST.shape[2]

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

    Args:
        health_VS: health without the sensor less health with it; positive where the sensor is
            evidence of a worse condition.
        distance_VS: OOD distance with the sensor less the distance without it; positive where its
            readings are unusual; NaN where either is not known.
    """

    health_VS: Floats
    distance_VS: Floats

    @classmethod
    def joined(cls, parts: Iterable["Contributions"]) -> "Contributions":
        """Return `merge` of the parts, under its former name."""
        return cls.merge(parts)

    @classmethod
    def merge(cls, parts: Iterable["Contributions"]) -> "Contributions":
        """Return the contributions of all sensors from those of consecutive sensors."""
        return cls(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


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
        grade_set_V=_integers(
            [set_of.get((design, each.component_id), -1) for each in equipment.components]
        ),
        edge_index_2E=_integers(edges).reshape(-1, 2).T,
        edge_relation_E=_integers(relations),
    )


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """One or more graphs as one. Indices of components count over the whole batch.

    `sensor_slot_S` is the number of the sensor's reference in the feature spec, -1 without one; `grade_set_V` that of the
    component's grade set, -1 without one. `edge_index_2E` has
    source and target of each message edge, `edge_relation_E` what it runs through: twice the medium, plus 1 against the
    connection's direction.
    """

    x_STF: Floats
    mask_ST: NDArray[np.bool_]
    sensor_component_S: Integers
    sensor_quantity_S: Integers
    sensor_slot_S: Integers
    sensor_graph_S: Integers
    component_type_V: Integers
    component_graph_V: Integers
    grade_set_V: Integers
    edge_index_2E: Integers
    edge_relation_E: Integers
    graphs: int


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """The network's answer for every component of a batch, float32.

    `health_V` in [0, 1] and `spread_V` its standard deviation; `rate_V` health lost per 1000 operating hours; `rul_V` remaining
    life in operating hours and `rul_spread_V` its standard deviation. `grade_probability_VK` has NaN beyond the component's
    grades. Which heads were trained stands in the checkpoint's manifest: an answer of an untrained head means nothing.
    `distance_V` is how far the evidence is from training's, 1.0 where windows of held-out conditions begin to be outliers; NaN where it is not known.
    """

    health_V: Floats
    spread_V: Floats
    rate_V: Floats
    rul_V: Floats
    rul_spread_V: Floats
    grade_probability_VK: Floats
    distance_V: Floats


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What the graphs of one topology have in common, as arrays; made once by `plan_graph`. See `GraphBatch`."""

    sensor_component_S: Integers
    sensor_quantity_S: Integers
    sensor_slot_S: Integers
    component_type_V: Integers
    grade_set_V: Integers
    edge_index_2E: Integers
    edge_relation_E: Integers


def plan_graph(equipment: Equipment, spec: FeatureSpec) -> GraphPlan:
    """Put a topology into the numbers of a spec's vocabularies.

    Args:
        equipment: the machine, or another one of the same topology.
        spec: the checkpoint's feature spec; its vocabularies give the numbers of types, quantities and relations.

    Raises:
        WindowError: the topology has a quantity, type or medium that the spec has not.
    """
    component_of = {
        component.component_id: index for index, component in enumerate(equipment.components)
    }
    set_of = {name: index for index, name in enumerate(spec.grade_sets())}
    slot_of = {name: index for index, name in enumerate(spec.sensor_slots())}
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
    return GraphPlan(
        sensor_component_S=_integers([component for component, _ in equipment.sensors]),
        sensor_quantity_S=_integers(
            [
                _number(sensor.quantity, spec.quantities, "quantity")
                for _, sensor in equipment.sensors
            ]
        ),
        sensor_slot_S=_integers(
            [slot_of.get((equipment.design, sensor_id), -1) for sensor_id in equipment.sensor_ids]
        ),
        component_type_V=_integers(
            [
                _number(component.type, spec.component_types, "component type")
                for component in equipment.components
            ]
        ),
        grade_set_V=_integers(
            [
                set_of.get((equipment.design, component.component_id), -1)
                for component in equipment.components
            ]
        ),
        edge_index_2E=_integers(edges).reshape(-1, 2).T.copy(),
        edge_relation_E=_integers(relations),
    )


def tile_graphs(plan: GraphPlan, x_WSTF: Floats, mask_WST: NDArray[np.bool_]) -> GraphBatch:
    """Join a topology with the features of W of its windows: what `concatenate` makes of the graphs of each.

    Args:
        plan: of the topology.
        x_WSTF: features, see `FeatureBatch`.
        mask_WST: where they are there.

    Returns:
        A batch of W graphs.
    """
    W, S, T, F = x_WSTF.shape
    V, window_W = len(plan.component_type_V), np.arange(W)
    shift_W1 = V * window_W[:, None]
    return GraphBatch(
        x_STF=x_WSTF.reshape(W * S, T, F),
        mask_ST=mask_WST.reshape(W * S, T),
        sensor_component_S=(plan.sensor_component_S + shift_W1).reshape(-1),
        sensor_quantity_S=np.tile(plan.sensor_quantity_S, W),
        sensor_slot_S=np.tile(plan.sensor_slot_S, W),
        sensor_graph_S=window_W.repeat(S),
        component_type_V=np.tile(plan.component_type_V, W),
        component_graph_V=window_W.repeat(V),
        grade_set_V=np.tile(plan.grade_set_V, W),
        edge_index_2E=(plan.edge_index_2E[:, None] + shift_W1).reshape(
            2, W * len(plan.edge_relation_E)
        ),
        edge_relation_E=np.tile(plan.edge_relation_E, W),
        graphs=W,
    )


def take_graphs(batch: GraphBatch, chosen: Sequence[int]) -> GraphBatch:
    """Take some graphs of a batch whose graphs all have one topology, as `tile_graphs` makes it."""
    count = len(chosen)
    S, V, E = (
        len(array) // batch.graphs
        for array in (batch.sensor_graph_S, batch.component_type_V, batch.edge_relation_E)
    )
    T, F = batch.x_STF.shape[1:]
    # of graphs that are alike, the constant arrays of any `count` are those of the first
    return GraphBatch(
        x_STF=batch.x_STF.reshape(batch.graphs, S, T, F)[chosen].reshape(count * S, T, F),
        mask_ST=batch.mask_ST.reshape(batch.graphs, S, T)[chosen].reshape(count * S, T),
        sensor_component_S=batch.sensor_component_S[: count * S],
        sensor_quantity_S=batch.sensor_quantity_S[: count * S],
        sensor_slot_S=batch.sensor_slot_S[: count * S],
        sensor_graph_S=batch.sensor_graph_S[: count * S],
        component_type_V=batch.component_type_V[: count * V],
        component_graph_V=batch.component_graph_V[: count * V],
        grade_set_V=batch.grade_set_V[: count * V],
        edge_index_2E=batch.edge_index_2E.reshape(2, batch.graphs, E)[:, :count].reshape(
            2, count * E
        ),
        edge_relation_E=batch.edge_relation_E[: count * E],
        graphs=count,
    )


def build_graph(equipment: Equipment, features: SensorFeatures, spec: FeatureSpec) -> GraphBatch:
    """Join an equipment's topology with the features of one of its windows, by `tile_graphs`.

    Args:
        equipment: the machine.
        features: of the window, made with the same spec.
        spec: the checkpoint's feature spec.

    Returns:
        A batch of one graph.

    Raises:
        WindowError: the topology has a quantity, type or medium that the spec has not.
    """
    return tile_graphs(plan_graph(equipment, spec), features.x_STF[None], features.mask_ST[None])


def concatenate(batches: Sequence[GraphBatch]) -> GraphBatch:
    """Put graphs side by side as one batch; their sizes may differ, their steps and features not.

    Raises:
        WindowError: there is no batch, or the batches have different numbers of steps or features.
    """
    shapes = {batch.x_STF.shape[1:] for batch in batches}
    if len(shapes) != 1:
        raise WindowError(
            f"expected graphs of one number of steps and features in a batch, found {sorted(shapes)}: send them apart"
        )
    component_shifts = [0, *accumulate(len(batch.component_type_V) for batch in batches)]
    graph_shifts = [0, *accumulate(batch.graphs for batch in batches)]
    shifted = list(zip(batches, component_shifts, graph_shifts, strict=False))
    return GraphBatch(
        x_STF=np.concatenate([batch.x_STF for batch in batches]),
        mask_ST=np.concatenate([batch.mask_ST for batch in batches]),
        sensor_component_S=np.concatenate(
            [batch.sensor_component_S + shift for batch, shift, _ in shifted]
        ),
        sensor_quantity_S=np.concatenate([batch.sensor_quantity_S for batch in batches]),
        sensor_slot_S=np.concatenate([batch.sensor_slot_S for batch in batches]),
        sensor_graph_S=np.concatenate(
            [batch.sensor_graph_S + shift for batch, _, shift in shifted]
        ),
        component_type_V=np.concatenate([batch.component_type_V for batch in batches]),
        component_graph_V=np.concatenate(
            [batch.component_graph_V + shift for batch, _, shift in shifted]
        ),
        grade_set_V=np.concatenate([batch.grade_set_V for batch in batches]),
        edge_index_2E=np.concatenate(
            [batch.edge_index_2E + shift for batch, shift, _ in shifted], axis=1
        ),
        edge_relation_E=np.concatenate([batch.edge_relation_E for batch in batches]),
        graphs=graph_shifts[-1],
    )


def split_graphs(batch: GraphBatch) -> tuple[GraphBatch, ...]:
    """Take a batch apart into batches of one graph each: the inverse of `concatenate`."""
    if batch.graphs == 1:
        return (batch,)
    graph_E = batch.component_graph_V[batch.edge_index_2E[0]]
    parts = []
    for graph in range(batch.graphs):
        nodes_V, sensors_S, edges_E = (
            batch.component_graph_V == graph,
            batch.sensor_graph_S == graph,
            graph_E == graph,
        )
        shift = int(np.argmax(nodes_V))
        parts.append(
            GraphBatch(
                x_STF=batch.x_STF[sensors_S],
                mask_ST=batch.mask_ST[sensors_S],
                sensor_component_S=batch.sensor_component_S[sensors_S] - shift,
                sensor_quantity_S=batch.sensor_quantity_S[sensors_S],
                sensor_slot_S=batch.sensor_slot_S[sensors_S],
                sensor_graph_S=np.zeros(int(sensors_S.sum()), np.int64),
                component_type_V=batch.component_type_V[nodes_V],
                component_graph_V=np.zeros(int(nodes_V.sum()), np.int64),
                grade_set_V=batch.grade_set_V[nodes_V],
                edge_index_2E=batch.edge_index_2E[:, edges_E] - shift,
                edge_relation_E=batch.edge_relation_E[edges_E],
                graphs=1,
            )
        )
    return tuple(parts)


def split_output(output: ModelOutput, sizes: Sequence[int]) -> tuple[ModelOutput, ...]:
    """Take the answer for a batch apart.

    Args:
        output: for all components of a batch.
        sizes: number of components of each part, in order; they sum to V.
    """
    ends = list(accumulate(sizes))
    return tuple(
        ModelOutput(
            health_V=output.health_V[end - size : end],
            spread_V=output.spread_V[end - size : end],
            rate_V=output.rate_V[end - size : end],
            rul_V=output.rul_V[end - size : end],
            rul_spread_V=output.rul_spread_V[end - size : end],
            grade_probability_VK=output.grade_probability_VK[end - size : end],
            distance_V=output.distance_V[end - size : end],
        )
        for end, size in zip(ends, sizes, strict=True)
    )


def without_sensor(graph: GraphBatch, sensor: int) -> GraphBatch:
    """Return the graph as it is when one sensor has no readings at all."""
    x_STF, mask_ST = graph.x_STF.copy(), graph.mask_ST.copy()
    x_STF[sensor], mask_ST[sensor] = 0.0, False
    return replace(graph, x_STF=x_STF, mask_ST=mask_ST)


def _integers(values: Sequence[object]) -> Integers:
    return np.array(values, np.int64)


def _number(name: str, vocabulary: tuple[str, ...], kind: str) -> int:
    if name not in vocabulary:
        raise WindowError(
            f"expected a {kind} that the checkpoint knows ({', '.join(vocabulary)}), "
            f"found '{name}': correct the topology or retrain"
        )
    return vocabulary.index(name)
