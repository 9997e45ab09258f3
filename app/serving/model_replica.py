"""A model server as a deployment.

Invariant: its process does what `ModelServer` does and nothing else.
"""

from pathlib import Path

from app.serving.logging import configure_logging
from app.serving.model_server import ModelServer
from app.settings import Settings


class ModelReplica(ModelServer):
    """One replica of one version."""

    def __init__(self, checkpoint_dir: Path, device: str, threads: int) -> None:
        configure_logging(Settings().log_level)
        super().__init__(checkpoint_dir, device, threads)
