"""Predicts for groups with the network's batched form, until `app.checkpoint.predictor` does."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from app.checkpoint.files import Checkpoint
from app.model.graph import (
    Contributions,
    GraphBatch,
    GraphGroup,
    GraphPlan,
    Prediction,
    concatenate,
    split_output,
    tile_graphs,
)
from app.model.network import Network, occlude, score
from app.model.runtime.selection import choose


def batch_of(group: GraphGroup) -> GraphBatch:
    """Return a group as one batch."""
    each = group.topology
    plan = GraphPlan(
        each.sensor_component_S,
        each.sensor_quantity_S,
        each.sensor_slot_S,
        each.component_type_V,
        each.grade_set_V,
        each.edge_index_2E,
        each.edge_relation_E,
    )
    return tile_graphs(plan, group.x_WSTF, group.mask_WST)


class LegacyPredictor:
    """Predicts for groups."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self.name = name
        self.config = network.config

    def predict(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        """Predict all windows of a call."""
        by_steps: dict[int, list[int]] = {}
        for position, group in enumerate(groups):
            by_steps.setdefault(group.steps, []).append(position)
        found: dict[int, Prediction] = {}
        for positions in by_steps.values():
            batch = concatenate([batch_of(groups[position]) for position in positions])
            sizes = [groups[each].windows * groups[each].topology.components for each in positions]
            for position, output in zip(
                positions, split_output(score(self._network, batch), sizes), strict=True
            ):
                W = groups[position].windows
                found[position] = Prediction(
                    output.grade_probability_VK.reshape(
                        W, -1, output.grade_probability_VK.shape[1]
                    ),
                    *(
                        array.reshape(W, -1)
                        for array in (
                            output.health_V,
                            output.spread_V,
                            output.rate_V,
                            output.rul_V,
                            output.rul_spread_V,
                            output.distance_V,
                        )
                    ),
                )
        return [found[position] for position in range(len(groups))]

    def contributions(self, group: GraphGroup) -> Iterator[Contributions]:
        """Measure what each sensor contributes by leaving it out."""
        yield from occlude(self._network, batch_of(group))


class Opened(NamedTuple):
    """A predictor that serves."""

    predictor: LegacyPredictor
    device: str
    lone_ms: float
    lone_rows: int


def open_predictor(checkpoint: Checkpoint, device: str, threads: int) -> Opened:
    """Open a checkpoint for serving."""
    choice = choose(checkpoint.model, threads)
    predictor = LegacyPredictor(choice.network, choice.implementation.name)
    return Opened(predictor, device, choice.lone_ms, choice.lone_rows)


def warm_up_group(config: object, windows: int) -> GraphGroup:
    """Return windows without meaning."""
    import numpy as np

    from app.model.graph import Topology
    from app.model.runtime.selection import warm_up_graphs

    batch = warm_up_graphs(config, windows)  # type: ignore[arg-type]
    S = len(batch.sensor_graph_S) // windows
    V = len(batch.component_type_V) // windows
    E = len(batch.edge_relation_E) // windows
    T, F = batch.x_STF.shape[1:]
    first = (batch.edge_index_2E < V).all(axis=0)
    assert int(first.sum()) == E
    topology = Topology(
        batch.sensor_component_S[:S],
        batch.sensor_quantity_S[:S],
        batch.sensor_slot_S[:S],
        batch.component_type_V[:V],
        batch.grade_set_V[:V],
        np.ascontiguousarray(batch.edge_index_2E[:, first]),
        batch.edge_relation_E[first],
    )
    return GraphGroup(
        topology, batch.x_STF.reshape(windows, S, T, F), batch.mask_ST.reshape(windows, S, T)
    )
