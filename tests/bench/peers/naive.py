"""Peer (f): what one writes first: a query of narrow rows, a pandas pivot, a PyG batch, a forward pass, one request at a time.

Features, network and diagnosis are those of all peers; the reading, the graph's container and the serving are the naive ones.
Invariant: the pivot holds the same numbers as the grid.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import numpy as np
import pandas as pd
import torch
import uvicorn
from fastapi import FastAPI
from torch_geometric.data import Batch, Data

from app.diagnosis.build import Scores
from app.diagnosis.decoder import component_predictions
from app.experiments.pairs import score
from app.features.binning import Floats
from app.model.graph import GraphBatch
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment
from app.serving.ingress.windows import Bins, interval_of
from tests.bench.peers.common import ROUTE, Asked, Diagnoser, options

ROWS = """
select reading.time, sensor.sensor_id, reading.value
from sensor_readings reading
join equipment_sensors sensor using (equipment_key, slot)
join equipment using (equipment_key)
where equipment.equipment_id = $1 and reading.time >= $2 and reading.time < $3
"""


def pivot(rows: list[asyncpg.Record], equipment: Equipment, bins: Bins) -> Floats:
    """Put rows into the bins of a window, [S, N]."""
    frame = pd.DataFrame([tuple(row) for row in rows], columns=["time", "sensor_id", "value"])
    step = pd.Timedelta(seconds=equipment.grid_s)
    frame["time"] = frame["time"].dt.floor(step)
    wide = frame.pivot_table(index="time", columns="sensor_id", values="value", aggfunc="mean")
    times = pd.date_range(interval_of(bins, equipment).start, periods=bins.length, freq=step)
    return wide.reindex(index=times, columns=list(equipment.sensor_ids)).to_numpy(np.float32).T


def through_pyg(graph: GraphBatch) -> GraphBatch:
    """Make a PyG batch of the graph, as one would to feed a PyG network, and give the network its arrays."""
    data = Data(
        x=torch.from_numpy(graph.x_STF),
        edge_index=torch.from_numpy(graph.edge_index_2E),
        edge_relation=torch.from_numpy(graph.edge_relation_E),
        component_type=torch.from_numpy(graph.component_type_V),
        num_nodes=len(graph.component_type_V),
    )
    batch = Batch.from_data_list([data])
    return GraphBatch(
        x_STF=batch.x.numpy(),
        mask_ST=graph.mask_ST,
        sensor_component_S=graph.sensor_component_S,
        sensor_quantity_S=graph.sensor_quantity_S,
        sensor_slot_S=graph.sensor_slot_S,
        sensor_graph_S=graph.sensor_graph_S,
        component_type_V=batch.component_type.numpy(),
        component_graph_V=batch.batch.numpy(),
        grade_set_V=graph.grade_set_V,
        edge_index_2E=batch.edge_index.numpy(),
        edge_relation_E=batch.edge_relation.numpy(),
        graphs=1,
    )


def build() -> FastAPI:
    """Build the application."""
    given = options()

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        diagnoser = Diagnoser(given.dsn, given.threads)
        await diagnoser.start()
        await diagnoser.warm_up()
        api.state.diagnoser = diagnoser
        async with asyncpg.create_pool(given.dsn) as pool:
            api.state.pool = pool
            yield
        await diagnoser.store.close()

    api = FastAPI(lifespan=lifespan)

    @api.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @api.post(ROUTE)
    async def diagnose(asked: Asked) -> Diagnosis:
        diagnoser: Diagnoser = api.state.diagnoser
        equipment, bins = diagnoser.resolve(asked)
        window = interval_of(bins, equipment)
        rows = await api.state.pool.fetch(ROWS, equipment.equipment_id, window.start, window.end)

        def work() -> Diagnosis:
            group = diagnoser.group([0], equipment, pivot(rows, equipment, bins)[None])
            output = score(diagnoser.network, through_pyg(group.graph))
            newest = max((row["time"] for row in rows), default=None)
            (summary,) = group.summary.windows(equipment.sensor_ids)
            return diagnoser.conclude(
                equipment, bins, newest, Scores(component_predictions(output)), summary
            )

        return await asyncio.to_thread(work)

    return api


if __name__ == "__main__":
    uvicorn.run(
        build(), host="127.0.0.1", port=options().port, log_level="warning", access_log=False
    )
