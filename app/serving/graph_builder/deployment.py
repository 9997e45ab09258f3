"""The graph builder as a Serve deployment."""

from app.core.settings import Settings
from app.serving.graph_builder.builder import GraphBuilder
from app.serving.observability.logging import configure_logging


class GraphBuilderDeployment(GraphBuilder):
    """A graph builder that configures the logging of its process."""

    def __init__(self) -> None:
        configure_logging(Settings().log_level)
        super().__init__()
