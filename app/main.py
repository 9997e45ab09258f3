"""The composition root: what `serve_config.yaml` imports, typed, so that a wrong argument fails before anything starts.

It stands above serving and releases, which know nothing of each other, and gives the ingress its release service.

Invariant: replicas, resources and weights are not said here but in the configuration file.
"""

from ray import serve

from app.checkpoint.locate import find_checkpoint
from app.core.errors import SettingsError
from app.core.settings import PROJECT_DIR, Settings
from app.release.service import open_release_service
from app.serving.graph_builder.deployment import GraphBuilderReplica
from app.serving.ingress.config import DiagnosticsArgs, ModelArgs
from app.serving.ingress.deployment import IngressReplica
from app.serving.ingress.startup import read_declared


def diagnostics(args: DiagnosticsArgs) -> serve.Application:
    """Bind the ingress to the graph-builder pool.

    Raises:
        SettingsError: a topology file is not there.
        TopologyError: one has errors.
    """
    for name in args.equipment:
        if not (PROJECT_DIR / name).is_file():
            raise SettingsError(
                f"expected a topology file args.equipment '{name}' under the project, found none: correct it"
            )
        read_declared(PROJECT_DIR / name)
    builder = serve.deployment(name="GraphBuilder")(GraphBuilderReplica)
    ingress = serve.deployment(name="Ingress")(IngressReplica)
    return ingress.bind(builder.bind(), args.equipment, args.timeout_s, open_release_service)


def model(args: ModelArgs) -> serve.Application:
    """Bind one version's model replicas.

    Raises:
        CheckpointError: the checkpoint is not there or is not what its manifest says.
    """
    # torch takes seconds to import, and building the ingress's application does not need it
    from app.serving.model_server.deployment import ModelReplica

    find_checkpoint(args.checkpoint, Settings())
    return serve.deployment(name="Model")(ModelReplica).bind(
        args.checkpoint, args.device, args.threads
    )
