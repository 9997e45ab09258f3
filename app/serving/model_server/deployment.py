"""The model server as a Serve deployment, which merges calls that wait for the same pass.

A call that finds the replica idle runs at once: a batch of one would cost two turns of the event
loop. Calls that arrive while a pass runs in a thread are predicted together.
"""

from collections.abc import Sequence

from ray import serve

from app.checkpoint.locate import find_checkpoint
from app.core.settings import Settings
from app.model.graph import GraphGroup, Prediction
from app.serving.model_server.server import ModelServer
from app.serving.observability.logging import configure_logging

MAX_BATCH_CALLS = 8
"""A call carries up to 64 windows; the predictor bounds the size of its passes by itself."""


class ModelDeployment(ModelServer):
    """One replica of one version.

    Args:
        checkpoint: as `serve_config.yaml` names it; found, or fetched, on the replica's own node.
        device: see `ModelServer`.
        threads: see `ModelServer`.
    """

    def __init__(self, checkpoint: str, device: str, threads: int) -> None:
        settings = Settings()
        configure_logging(settings.log_level)
        super().__init__(find_checkpoint(checkpoint, settings), device, threads)

    async def predict(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        """Predict for a call's groups, together with other calls that wait."""
        if self.idle:
            return await super().predict(groups)
        predictions: list[Prediction] = await self._merged(groups)
        return predictions

    @serve.batch(max_batch_size=MAX_BATCH_CALLS, batch_wait_timeout_s=0.0)
    async def _merged(self, calls: list[Sequence[GraphGroup]]) -> list[list[Prediction]]:
        return await self.predict_calls(calls)
