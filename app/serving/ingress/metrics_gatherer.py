"""Gathers the metrics of the whole service for one scrape: `GET /metrics` of any ingress replica.

The service as a whole is probed, then every replica of every deployment is called through Serve's
handles, all at once. What does not answer within `LIMIT_S` is left out, so a scrape takes 7 s at
most, of the 10 s that Prometheus gives it. Nothing is gathered between scrapes.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextvars import Context
from pathlib import Path

from app.core.tasks import end_tasks
from app.core.text_metrics import read_text_files
from app.serving.ingress.service_facts import ServiceFacts
from app.serving.observability.exposition import ReplicaText, merge
from app.serving.observability.process_metrics import ReplicaMetrics
from app.serving.observability.service_metrics import ServiceMetrics
from app.serving.rpc.replicas import DeploymentState, Replicas

logger = logging.getLogger(__name__)

LIMIT_S = 2.5
"""Longest time for the replicas to answer; Prometheus gives a scrape ten seconds."""


class MetricsGatherer:
    """Gathers metrics.

    Args:
        own: metrics of this replica, which are in every answer.
        facts: of the service as a whole.
        replicas: of all deployments.
        text_files: directory where jobs such as trainings leave their metrics.
    """

    def __init__(
        self, own: ReplicaMetrics, facts: ServiceFacts, replicas: Replicas, text_files: Path
    ) -> None:
        self._own = own
        self._facts = facts
        self._replicas = replicas
        self._text_files = text_files
        self._gathering: asyncio.Task[bytes] | None = None

    async def exposition(self) -> bytes:
        """Return the metrics of all replicas in the Prometheus text format.

        Scrapes at the same time share one gathering: the route needs no key.
        """
        if self._gathering is None or self._gathering.done():
            # in a context of its own: it works for the service, which sees the machines of all
            # tenants, not for this caller, who has no key and whose end would cancel the others'
            self._gathering = asyncio.get_running_loop().create_task(
                self._gather(), context=Context()
            )
        return await asyncio.shield(self._gathering)

    async def close(self) -> None:
        """Cancel what is in progress."""
        if self._gathering is not None:
            await end_tasks({self._gathering})
        await self._facts.close()

    async def _gather(self) -> bytes:
        started = time.perf_counter()
        service = ServiceMetrics()
        own, states, files, _ = await asyncio.gather(
            self._own.scraped(),
            self._deployments(),
            asyncio.to_thread(read_text_files, self._text_files),
            self._facts.fill(service, LIMIT_S),
        )
        answers = await asyncio.gather(*(self._of(state) for state in states))
        for state, answer in zip(states, answers, strict=True):
            labels = (state.application, state.deployment)
            for name, count in state.replicas.items():
                service.replicas.labels(*labels, name.lower()).set(count)
            service.healthy.labels(*labels).set(state.is_healthy)
            service.scraped.labels(*labels).set(len(answer))
        texts = {each.replica: each.text for answer in answers for each in answer}
        texts[own.replica] = own.text
        service.scrape_seconds.set(time.perf_counter() - started)
        return merge([service.exposition(), *texts.values(), *files])

    async def _deployments(self) -> Sequence[DeploymentState]:
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._replicas.deployments()
        except Exception as error:  # noqa: BLE001 - whatever Ray raises while its head is away
            logger.warning("deployments unknown", extra={"reason": str(error)})
            return ()

    async def _of(self, state: DeploymentState) -> Sequence[ReplicaText]:
        try:
            return await self._replicas.metrics_of(state, LIMIT_S)
        except Exception as error:  # noqa: BLE001 - a deployment that is away has no metrics
            logger.warning(
                "metrics of a deployment missing",
                extra={"deployment": state.deployment, "reason": str(error)},
            )
            return ()
