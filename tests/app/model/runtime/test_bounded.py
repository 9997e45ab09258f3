"""A batch read in parts."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from app.model.runtime.bounded import BoundedNetwork, graphs_between
from app.model.runtime.selection import warm_up_graphs

from app.core.errors import LimitExceeded
from app.experiments.pairs import score
from app.model.config import ModelConfig
from app.model.graph import Contributions, GraphBatch, ModelOutput, concatenate
from app.model.network import Averages, UniversalTemporalGNN, occlude
from tests.small import small


class Watched:
    """A network that notes what it reads, and whose memory ends above so many graphs."""

    def __init__(self, model: UniversalTemporalGNN, graphs: int = 1000) -> None:
        self._model, self._graphs = model, graphs
        self.config: ModelConfig = model.config
        self.read_graphs: list[int] = []

    def read(self, batch: GraphBatch) -> Averages:
        self.read_graphs.append(batch.graphs)
        if batch.graphs > self._graphs:
            raise torch.OutOfMemoryError("no memory left")
        return self._model.read(batch)


def assert_parted_equals_whole(
    make: Callable[[UniversalTemporalGNN], BoundedNetwork], batch: GraphBatch
) -> None:
    model = small().model
    found, expected = score(make(model), batch), score(model, batch)
    for field in fields(ModelOutput):
        # sums of a part are made in another order than those of the whole
        np.testing.assert_allclose(
            getattr(found, field.name), getattr(expected, field.name), atol=1e-5
        )


def test_graphs_between_are_those_that_were_put_together() -> None:
    batch = warm_up_graphs(small().config, 4)
    parts = [graphs_between(batch, 0, 1), graphs_between(batch, 1, 4)]
    again = concatenate(parts)
    for name in GraphBatch.__slots__:
        assert np.array_equal(getattr(again, name), getattr(batch, name))
    assert parts[1].component_graph_V[0] == 0
    assert parts[1].edge_index_2E.min() == 0


def test_large_batch_is_read_in_parts_under_the_cap() -> None:
    batch = warm_up_graphs(small().config, 7)
    rows = batch.mask_ST.size // 7
    watched: list[Watched] = []

    def make(model: UniversalTemporalGNN) -> BoundedNetwork:
        watched.append(Watched(model))
        return BoundedNetwork(watched[0], 2 * rows)

    assert_parted_equals_whole(make, batch)
    assert sum(watched[0].read_graphs) == 7
    assert max(watched[0].read_graphs) <= 2


def test_graph_above_the_cap_is_read_alone() -> None:
    watched = Watched(small().model)
    score(BoundedNetwork(watched, 1), warm_up_graphs(watched.config, 3))
    assert watched.read_graphs == [1, 1, 1]


def test_batch_for_which_memory_ends_is_halved_and_answered() -> None:
    batch = warm_up_graphs(small().config, 6)
    watched: list[Watched] = []

    def make(model: UniversalTemporalGNN) -> BoundedNetwork:
        watched.append(Watched(model, graphs=2))
        return BoundedNetwork(watched[0])

    assert_parted_equals_whole(make, batch)
    assert watched[0].read_graphs == [6, 3, 1, 2, 3, 1, 2]


def test_graph_that_alone_ends_the_memory_is_refused() -> None:
    made = small()
    with pytest.raises(LimitExceeded, match=r"found \d+ sensors x \d+ steps: use fewer steps"):
        score(BoundedNetwork(Watched(made.model, graphs=0)), warm_up_graphs(made.config, 2))


def test_evidence_is_worked_out_through_it() -> None:
    made = small()
    graph = warm_up_graphs(made.config, 1)
    found = Contributions.joined(occlude(BoundedNetwork(Watched(made.model, graphs=2)), graph))
    expected = Contributions.joined(occlude(made.model, graph))
    np.testing.assert_allclose(found.health_VS, expected.health_VS, atol=1e-5)
