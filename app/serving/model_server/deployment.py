"""A model server as a deployment: calls that come while a pass runs off the event loop are scored together, one that finds none at once.

Invariant: its process does what `ModelServer` does and nothing else.
"""

from ray import serve

from app.checkpoint.locate import find_checkpoint
from app.core.settings import Settings
from app.model.graph import GraphBatch, ModelOutput
from app.serving.model_server.server import ModelServer
from app.serving.observability.logging import configure_logging

MAX_BATCH_CALLS = 8
"""Calls come with up to 64 windows each, and what is merged is read in bounded parts anyway."""


class ModelDeployment(ModelServer):
    """One replica of one version.

    Args:
        checkpoint: as `serve_config.yaml` names it; found, or fetched, on this replica's own node.
        device: see `ModelServer`.
        threads: see `ModelServer`.
    """

    def __init__(self, checkpoint: str, device: str, threads: int) -> None:
        settings = Settings()
        configure_logging(settings.log_level)
        super().__init__(find_checkpoint(checkpoint, settings), device, threads)

    async def output_of(self, graph: GraphBatch) -> ModelOutput:
        """Return the network's answer for a call's graphs; while a pass runs off the event loop, with those of other calls that wait."""
        if self.idle:  # a batch of one would cost two turns of the event loop
            return await super().output_of(graph)
        output: ModelOutput = await self._merged(graph)
        return output

    @serve.batch(max_batch_size=MAX_BATCH_CALLS, batch_wait_timeout_s=0.0)
    async def _merged(self, graphs: list[GraphBatch]) -> list[ModelOutput]:
        return await self.outputs_of(graphs)
