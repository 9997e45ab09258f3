"""Serve application builders: what `serve_config.yaml` imports.

Arguments are typed, so a wrong one fails before anything starts. Replicas, resources and weights
are in the configuration file alone.
"""

from ray import serve

from app.checkpoint.locate import find_checkpoint
from app.core.errors import SettingsError
from app.core.settings import PROJECT_DIR, Settings
from app.release.service import open_release_service
from app.schemas.topology import read_equipment
from app.serving.graph_builder.deployment import GraphBuilderDeployment
from app.serving.ingress.config import DiagnosticsArgs, ModelArgs
from app.serving.ingress.deployment import IngressDeployment


def diagnostics(args: DiagnosticsArgs) -> serve.Application:
    """Bind the ingress to the graph-builder pool.

    Raises:
        SettingsError: a topology file is missing.
        TopologyError: a topology file has errors.
    """
    for name in args.equipment:
        path = PROJECT_DIR / name
        if not path.is_file():
            raise SettingsError(
                f"expected a topology file args.equipment '{name}' under the project, found none: "
                "correct it"
            )
        read_equipment(path.read_bytes(), path.name)
    builder = serve.deployment(name="GraphBuilder")(GraphBuilderDeployment)
    ingress = serve.deployment(name="Ingress")(IngressDeployment)
    return ingress.bind(builder.bind(), args, open_release_service)


def model(args: ModelArgs) -> serve.Application:
    """Bind the model servers of one version.

    Raises:
        CheckpointError: the checkpoint is missing or differs from its manifest.
    """
    # imported here, since the other applications do not need what a model server imports
    from app.serving.model_server.deployment import ModelDeployment

    find_checkpoint(args.checkpoint, Settings())
    return serve.deployment(name="Model")(ModelDeployment).bind(
        args.checkpoint, args.device, args.threads
    )
