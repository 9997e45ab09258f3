"""Reads a batch in parts that fit into a device's memory.

Invariant: an answer does not depend on how the batch was parted, but for rounding.
"""

import numpy as np
import torch

from app.core.errors import LimitExceeded
from app.model.graph import GraphBatch
from app.model.network import Averages, ModelConfig, Network

MAX_ROWS = 20_000
"""Sensors times steps of the graphs in one forward pass; bounds its memory. A larger graph is read alone."""


class BoundedNetwork:
    """A network that reads a batch in parts that fit into memory.

    Args:
        network: reads each part.
        max_rows: sensors times steps of a part that has more than one graph.
    """

    def __init__(self, network: Network, max_rows: int = MAX_ROWS) -> None:
        self._network = network
        self._max_rows = max_rows

    @property
    def config(self) -> ModelConfig:
        """Sizes and grade sets."""
        return self._network.config

    def read(self, batch: GraphBatch) -> Averages:
        """Answer for a batch, see `app.model.network.Network`; where memory ends, in halves.

        Raises:
            LimitExceeded: one graph alone does not fit into memory.
        """
        if batch.graphs > 1 and batch.mask_ST.size > self._max_rows:
            return self._halves(batch)
        try:
            return self._network.read(batch)
        except torch.OutOfMemoryError as error:
            if batch.graphs == 1:
                S, T = batch.mask_ST.shape
                raise LimitExceeded(
                    f"expected a graph that fits into the device's memory, found {S} sensors x {T} steps: use fewer steps"
                ) from error
        # out of the handler, whose traceback holds the failed pass's tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._halves(batch)

    def _halves(self, batch: GraphBatch) -> Averages:
        middle = batch.graphs // 2
        parts = (
            self.read(graphs_between(batch, 0, middle)),
            self.read(graphs_between(batch, middle, batch.graphs)),
        )
        return Averages(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))


def graphs_between(batch: GraphBatch, first: int, end: int) -> GraphBatch:
    """Return the graphs of a batch from one number up to another."""
    sensors = slice(*np.searchsorted(batch.sensor_graph_S, (first, end)).tolist())
    components = slice(*np.searchsorted(batch.component_graph_V, (first, end)).tolist())
    edges = slice(
        *np.searchsorted(batch.component_graph_V[batch.edge_index_2E[0]], (first, end)).tolist()
    )
    return GraphBatch(
        x_STF=batch.x_STF[sensors],
        mask_ST=batch.mask_ST[sensors],
        sensor_component_S=batch.sensor_component_S[sensors] - components.start,
        sensor_quantity_S=batch.sensor_quantity_S[sensors],
        sensor_slot_S=batch.sensor_slot_S[sensors],
        sensor_graph_S=batch.sensor_graph_S[sensors] - first,
        component_type_V=batch.component_type_V[components],
        component_graph_V=batch.component_graph_V[components] - first,
        grade_set_V=batch.grade_set_V[components],
        edge_index_2E=batch.edge_index_2E[:, edges] - components.start,
        edge_relation_E=batch.edge_relation_E[edges],
        graphs=end - first,
    )
