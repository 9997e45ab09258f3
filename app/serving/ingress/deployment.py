"""The ingress as a deployment: Serve's wrapper speaks ASGI around it, and its chain goes through Serve's handles.

Invariant: its process does what `Ingress` does and nothing else; it imports no torch.
"""

import gc
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.serving.ingress.startup import Ingress, OpenReleaseService
from app.serving.ingress.version_router import Chain
from app.serving.rpc import client as handles

COLLECT_AFTER = (20_000, 20, 20)
"""Of `gc.set_threshold`: a batch of diagnoses is thousands of objects that go by themselves, and looking for cycles among them
after each 700 is a tenth of the work."""


@serve.ingress()
class IngressDeployment(Ingress):
    """One ingress replica.

    Args:
        builder: handle of the graph-builder pool.
        equipment_files: topologies that are registered at the start when they are not yet, relative to the project.
        timeout_s: of each call to another deployment.
        open_release_service: makes what does releases; a function of a module, which is what travels.
    """

    def __init__(
        self,
        builder: DeploymentHandle[Any],
        equipment_files: tuple[str, ...],
        timeout_s: float,
        open_release_service: OpenReleaseService,
    ) -> None:
        gc.set_threshold(*COLLECT_AFTER)
        build = partial(handles.build, handles.passing(builder))
        chain = Chain(build, handles.score, handles.describe, handles.probe)
        super().__init__(chain, equipment_files, timeout_s, open_release_service)
