"""The graph builder as a deployment: it asks versions through Serve's handles, and imports no torch.

Invariant: its process does what `GraphBuilder` does and nothing else.
"""

from app.core.settings import Settings
from app.serving.graph_builder.builder import GraphBuilder
from app.serving.observability.logging import configure_logging
from app.serving.rpc import client as handles


class GraphBuilderDeployment(GraphBuilder):
    """One replica of the graph-builder pool."""

    def __init__(self) -> None:
        configure_logging(Settings().log_level)
        super().__init__(handles.describe)
