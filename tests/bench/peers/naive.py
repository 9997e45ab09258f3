"""Peer (f): a naive implementation without batching.

A request is a query of narrow rows, a pandas pivot, a PyG batch and a forward pass. Features,
network and diagnosis are those of all peers. The pivot has the same numbers as the grid.
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
from torch_geometric.data import Batch

from app.checkpoint.torch_model import load_model
from app.diagnosis.build import Scores
from app.diagnosis.decoder import window_predictions
from app.features.binning import Floats
from app.model.graph import GraphGroup
from app.model.network import Ensemble, GraphTensors
from app.model.runtime.predictor import Predictor
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment
from app.serving.ingress.windows import Bins, interval_of
from tests.bench.peers.common import ROUTE, Diagnoser, DiagnosisRequest, options
from train.fitting.dataset import graph_tensors, window_graph

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


def pyg_tensors(group: GraphGroup) -> GraphTensors:
    """Return the tensors of one window's graph, made by way of a PyG batch."""
    data = window_graph(group.topology)
    data.x, data.mask = torch.from_numpy(group.x_WSTF[0]), torch.from_numpy(group.mask_WST[0])
    return graph_tensors(Batch.from_data_list([data]))


class NaiveRunner:
    """Runs the module in PyTorch on a PyG batch."""

    name = "pyg"

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    def run(self, group: GraphGroup) -> tuple[Floats, ...]:
        """Return the arrays of `NetworkOutput` for one window."""
        with torch.inference_mode():
            return tuple(each.numpy() for each in self._ensemble.estimate(pyg_tensors(group)))


def build() -> FastAPI:
    """Build the application."""
    given = options()

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        diagnoser = Diagnoser(given.dsn, given.threads)
        torch.set_num_threads(given.threads)
        model = load_model(diagnoser.checkpoint)
        runner = NaiveRunner(model.ensemble)
        api.state.predictor = Predictor(model.config, runner, model.skip, model.detector)
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
    async def diagnose(request: DiagnosisRequest) -> Diagnosis:
        diagnoser: Diagnoser = api.state.diagnoser
        predictor: Predictor = api.state.predictor
        equipment, bins = diagnoser.resolve(request)
        window = interval_of(bins, equipment)
        rows = await api.state.pool.fetch(ROWS, equipment.equipment_id, window.start, window.end)

        def work() -> Diagnosis:
            group = diagnoser.group([0], equipment, pivot(rows, equipment, bins)[None])
            (prediction,) = predictor.predict([group.graph])
            (scores,) = window_predictions(prediction)
            newest = max((row["time"] for row in rows), default=None)
            (quality,) = group.quality.windows(equipment.sensor_ids)
            return diagnoser.build(equipment, bins, newest, Scores(scores), quality)

        return await asyncio.to_thread(work)

    return api


if __name__ == "__main__":
    uvicorn.run(
        build(), host="127.0.0.1", port=options().port, log_level="warning", access_log=False
    )
