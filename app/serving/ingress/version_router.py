"""Routes windows to the released versions: scores by the chosen version, or by its fallbacks.

Which version answers is decided once per request by `VersionRouter.releases_for` and handed down
with the window. A version that fails repeatedly is skipped for a short time. Every window gets
scores or an error; a failure of one version or window does not affect the others.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from app.core.circuit_breaker import CircuitBreaker
from app.core.errors import (
    DeadlineExceeded,
    LimitExceeded,
    ModelUnavailable,
    VersionBusy,
)
from app.diagnosis.build import Scores
from app.diagnosis.cost import pass_cells
from app.diagnosis.decoder import PredictionDecoder
from app.diagnosis.input_quality import WindowQuality
from app.diagnosis.pipeline import (
    BuildResult,
    ScoredWindow,
    ScoreResult,
    WindowGroup,
    WindowInput,
    score_windows,
)
from app.model.graph import GraphGroup
from app.serving.ingress.timed_calls import TimedCalls
from app.serving.ingress.traffic import (
    Machine,
    Release,
    Traffic,
    forced_release,
    order_of_versions,
)
from app.serving.ingress.version import Version
from app.serving.observability.ecs import current_traces
from app.serving.observability.metrics import Metrics
from app.serving.rpc.client import DeploymentClient
from app.serving.rpc.messages import BuildCall, ScoreCall

logger = logging.getLogger(__name__)

PATIENCE_SHARE = 0.9
"""Share of the timeout for which a call may wait for the earlier work of a replica."""
HEAVY_CALL = 400_000
"""Sensor bins, or twice the cells, above which a call takes long by itself: more than a micro-batch
of many windows."""


class RoutedWindow(NamedTuple):
    """A window and the releases that may score it: the chosen one, then its fallbacks in order."""

    window: WindowInput
    releases: tuple[Release, ...]


class Scored(NamedTuple):
    """A scored window.

    Args:
        scores: of the machine's components.
        quality: of the input.
        input_digest: SHA-256 of the window's bins.
        decoder: of the version that scored it.
        fallback: whether another version than the chosen one scored it.
        seconds: time to build and score all windows of the call.
    """

    scores: Scores
    quality: WindowQuality
    input_digest: str
    decoder: PredictionDecoder
    fallback: bool
    seconds: float


class _BuildersFailed(ModelUnavailable):
    """The graph builders did not answer, which no version is to blame for; stays in this module."""


class VersionRouter:
    """The released versions of one replica.

    Args:
        client: calls the other deployments.
        metrics: counts failures and stage times.
        timeout_s: of each call to another deployment.
    """

    def __init__(self, client: DeploymentClient, metrics: Metrics, timeout_s: float) -> None:
        self._client = client
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._calls = TimedCalls(metrics, timeout_s)
        self._versions: dict[str, Version] = {}
        self._breakers: dict[str, CircuitBreaker] = {}
        self._builders = CircuitBreaker(time.monotonic)
        self._traffic: Traffic | None = None
        metrics.before_scrape(self._show_circuits)

    def for_shadows(self) -> "VersionRouter":
        """Return a router with its own circuit breakers and metrics, used for shadow traffic."""
        return VersionRouter(self._client, Metrics(), self._timeout_s)

    @property
    def traffic(self) -> Traffic:
        """Releases and weights in force.

        Raises:
            ModelUnavailable: none are configured yet.
        """
        if self._traffic is None:
            raise ModelUnavailable(
                "expected releases in the ingress's user_config, found none yet: see "
                "serve_config.yaml"
            )
        return self._traffic

    def set_traffic(self, traffic: Traffic) -> None:
        """Change releases and weights; requests in progress finish with the old ones."""
        self._traffic = traffic
        self._versions = {
            name: version
            for name, version in self._versions.items()
            if traffic.find(name) is not None
        }

    def circuit_is_open(self, version: str) -> bool:
        """Return whether a version is skipped now."""
        return self._breaker(version).is_open

    async def version(self, release: Release) -> Version:
        """Return a release's version; its replicas are called once.

        Raises:
            ModelUnavailable: no replica answered in time, or it has another version than the
                release names.
        """
        known = self._versions.get(release.version)
        if known is not None and known.release.application == release.application:
            return known
        description = await self._calls.to_version(
            release, self._client.describe(release.application)
        )
        version = Version.read(release, description)
        self._versions[release.version] = version
        return version

    async def probe_builders(self) -> None:
        """Have a replica of the graph-builder pool answer.

        Raises:
            ModelUnavailable: none answered in time.
        """
        await self._calls.within_timeout(self._client.probe_builder(), "the graph builders")

    async def probe(self, release: Release) -> None:
        """Have a release's model score its warm-up graph.

        Raises:
            ModelUnavailable: no replica answered in time.
        """
        await self._calls.within_timeout(
            self._client.probe(release.application), f"version {release.version}"
        )

    def releases_for(
        self, machine: Machine, forced_version: str | None = None
    ) -> tuple[Release, ...]:
        """Return the release that answers for a machine, then its fallbacks in order.

        Args:
            machine: its id and design.
            forced_version: the only version that may answer, if given.

        Raises:
            UnknownVersion: the forced version is not released.
            InputError: the forced version can't serve the machine.
            ModelUnavailable: no releases are configured yet.
        """
        if forced_version is None:
            return order_of_versions(machine, self.traffic)
        return (forced_release(forced_version, machine, self.traffic),)

    async def score(
        self, windows: Sequence[RoutedWindow], *, explain: bool = False
    ) -> list[Scored | Exception]:
        """Score windows, each by its own releases.

        Args:
            windows: with their releases.
            explain: whether to measure what each sensor contributes.

        Returns:
            For each window its scores or its error.
        """
        groups: dict[tuple[Release, ...], list[int]] = {}
        for position, item in enumerate(windows):
            groups.setdefault(item.releases, []).append(position)
        answers = await asyncio.gather(
            *(
                self._score_group(
                    releases, [windows[each].window for each in positions], explain=explain
                )
                for releases, positions in groups.items()
            )
        )
        outcomes = {
            position: outcome
            for positions, answer in zip(groups.values(), answers, strict=True)
            for position, outcome in zip(positions, answer, strict=True)
        }
        return [outcomes[position] for position in range(len(windows))]

    async def _score_group(
        self, releases: tuple[Release, ...], windows: Sequence[WindowInput], *, explain: bool
    ) -> Sequence[Scored | Exception]:
        names = ", ".join(release.version for release in releases)
        found = "its circuit open after repeated failures"
        for release in releases:
            breaker = self._breaker(release.version)
            call = breaker.begin()
            if call is None:
                continue
            answered: bool | None = None
            try:
                answer = await self._score_with(
                    release, windows, explain=explain, fallback=release is not releases[0]
                )
            except _BuildersFailed as error:
                # all versions have their graphs from the same pool: none is to blame, none can help
                logger.warning("graph builders failed", extra={"reason": error.message})
                return [ModelUnavailable(error.message)] * len(windows)
            except VersionBusy as error:
                # it answers others meanwhile: no failure of the version
                found = "it busy with earlier requests"
                logger.warning("version busy", extra={"reason": error.message})
            except ModelUnavailable as error:
                answered, found = False, "none"
                self._metrics.failed_versions.labels(release.version).inc()
                self._versions.pop(release.version, None)
                logger.warning(
                    "version failed", extra={"version": release.version, "reason": str(error)}
                )
            else:
                if not all(isinstance(outcome, DeadlineExceeded) for outcome in answer):
                    answered = True
                return answer
            finally:
                breaker.end(call, answered=answered)
        return [
            ModelUnavailable(
                f"expected an answer from version {names}, found {found}: try again in a few "
                "seconds"
            )
        ] * len(windows)

    async def _score_with(
        self, release: Release, windows: Sequence[WindowInput], *, explain: bool, fallback: bool
    ) -> list[Scored | Exception]:
        version = await self.version(release)
        spec_digest = version.description.spec_digest
        equipment_of = {each.equipment.structure_digest: each.equipment for each in windows}
        moments_of = {each.baseline_id: each.baseline.moments for each in windows if each.baseline}

        def document_of(digest: str) -> bytes:
            if digest == spec_digest:
                return version.description.feature_spec.encode()
            if digest in moments_of:
                return moments_of[digest].encode()
            return equipment_of[digest].structure()

        async def build(groups: Sequence[WindowGroup]) -> BuildResult:
            started = time.perf_counter()
            probe = self._builders.begin()
            if probe is None:
                raise _BuildersFailed(
                    "expected the graph builders to answer, found their circuit open after "
                    "repeated failures: try again in a few seconds"
                )
            answered: bool | None = None
            try:
                call = self._client.build(
                    BuildCall(spec_digest, groups, traces=current_traces()), document_of
                )
                result = await self._calls.within_timeout(call, "the graph builders")
                answered = True
            except LimitExceeded:
                answered = True
                raise
            except ModelUnavailable as error:
                # a heavy graph may take long by itself
                is_late = heavy and isinstance(error.__cause__, TimeoutError)
                answered = None if is_late else False
                raise _BuildersFailed(error.message) from error
            finally:
                self._builders.end(probe, answered=answered)
            self._metrics.stages["build"].observe(time.perf_counter() - started)
            return result

        async def score(groups: Sequence[GraphGroup]) -> ScoreResult:
            started = time.perf_counter()
            # a heavy call that takes long is answered with its own error
            patience_s = None if heavy else PATIENCE_SHARE * self._timeout_s
            call = ScoreCall(spec_digest, groups, explain, patience_s, current_traces())
            result = await self._calls.to_version(
                release, self._client.score(release.application, call), heavy=heavy
            )
            self._metrics.stages["score"].observe(time.perf_counter() - started)
            return result

        bins = sum(len(each.equipment.sensors) * each.equipment.bins for each in windows)
        cells = sum(pass_cells(each.equipment) for each in windows)
        heavy = explain or max(bins, 2 * cells) > HEAVY_CALL
        started = time.perf_counter()
        outcomes = await score_windows(windows, build, score)
        seconds = time.perf_counter() - started
        _raise_if_version_failed(outcomes)
        decoders = {digest: version.decoder_for(each) for digest, each in equipment_of.items()}
        scored: list[Scored | Exception] = []
        for window, outcome in zip(windows, outcomes, strict=True):
            if isinstance(outcome, ScoredWindow):
                decoder = decoders[window.equipment.structure_digest]
                scored.append(Scored(*outcome, decoder, fallback, seconds))
            else:
                scored.append(outcome)
        return scored

    def _show_circuits(self) -> None:
        for version, breaker in self._breakers.items():
            self._metrics.version_circuit_open.labels(version).set(breaker.is_open)

    def _breaker(self, version: str) -> CircuitBreaker:
        return self._breakers.setdefault(version, CircuitBreaker(time.monotonic))


def _raise_if_version_failed(outcomes: Sequence[ScoredWindow | Exception]) -> None:
    """Raise the first failure of a version that scored no window at all."""
    if any(isinstance(each, ScoredWindow | LimitExceeded) for each in outcomes):
        return
    for outcome in outcomes:
        if isinstance(outcome, ModelUnavailable):
            raise outcome
