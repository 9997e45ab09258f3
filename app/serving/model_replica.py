"""A model server as a deployment, which scores the calls that wait together.

Invariant: its process does what `ModelServer` does and nothing else.
"""

from pathlib import Path

from ray import serve

from app.graph import GraphBatch, ModelOutput
from app.serving.logging import configure_logging
from app.serving.model_server import ModelServer
from app.settings import Settings

MAX_BATCH_CALLS = 8
"""Calls come with up to 64 windows each, and what is merged is read in bounded parts anyway."""


class ModelReplica(ModelServer):
    """One replica of one version."""

    def __init__(self, checkpoint_dir: Path, device: str, threads: int) -> None:
        configure_logging(Settings().log_level)
        super().__init__(checkpoint_dir, device, threads)

    async def output_of(self, graph: GraphBatch) -> ModelOutput:
        """Return the network's answer for a call's graphs, worked out with those of other calls that wait."""
        output: ModelOutput = await self._merged(graph)
        return output

    @serve.batch(max_batch_size=MAX_BATCH_CALLS, batch_wait_timeout_s=0.0)
    async def _merged(self, graphs: list[GraphBatch]) -> list[ModelOutput]:
        return await self.outputs_of(graphs)
