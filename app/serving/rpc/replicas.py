"""All replicas of all deployments of the service, as Serve knows them, and their metrics."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ray import serve
from ray.serve.handle import DeploymentHandle

from app.serving.observability.exposition import ReplicaText

logger = logging.getLogger(__name__)

METHOD = "metrics_text"
"""Of each deployment: returns the metrics of the replica that is called."""


class DeploymentState(NamedTuple):
    """One deployment as Serve's controller sees it.

    Args:
        application: name of its application.
        deployment: its name.
        is_healthy: whether Serve calls it healthy.
        replicas: number of replicas by state, such as RUNNING or STARTING.
    """

    application: str
    deployment: str
    is_healthy: bool
    replicas: dict[str, int]


class Replicas(Protocol):
    """The replicas of the service."""

    async def deployments(self) -> Sequence[DeploymentState]:
        """Return all deployments of all applications."""

    async def metrics_of(self, state: DeploymentState, limit_s: float) -> Sequence[ReplicaText]:
        """Return the metrics of the replicas of a deployment.

        Raises:
            TimeoutError: a replica did not answer in time.
        """


class ServeReplicas:
    """The replicas of this cluster's Serve, called through its handles."""

    def __init__(self) -> None:
        self._handles: dict[tuple[str, str], DeploymentHandle[Any]] = {}

    async def deployments(self) -> list[DeploymentState]:
        """Return all deployments of all applications."""
        # in a thread, since it waits for Serve's controller
        found = await asyncio.to_thread(serve.status)
        return [
            DeploymentState(
                application,
                deployment,
                state.status == "HEALTHY",
                dict(Counter({str(each): n for each, n in state.replica_states.items()})),
            )
            for application, of in found.applications.items()
            for deployment, state in of.deployments.items()
        ]

    async def metrics_of(self, state: DeploymentState, limit_s: float) -> list[ReplicaText]:
        """Return the metrics of the replicas of a deployment.

        A replica that fails is left out.

        Raises:
            TimeoutError: a replica did not answer in time.
        """
        key = (state.application, state.deployment)
        if key not in self._handles:
            handle: DeploymentHandle[Any] = await asyncio.to_thread(
                serve.get_deployment_handle, state.deployment, state.application
            )
            self._handles[key] = handle.options(
                _by_reference=False, request_serialization="pickle", response_serialization="pickle"
            )
        response = self._handles[key].broadcast(METHOD)
        answers = await response.results_async(timeout_s=limit_s, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                logger.warning(
                    "metrics of a replica missing",
                    extra={"deployment": state.deployment, "reason": str(answer)},
                )
        return [answer for answer in answers if isinstance(answer, ReplicaText)]
