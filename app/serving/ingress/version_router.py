"""The way from windows to scores: the version that traffic chooses, and another one when it fails.

Invariant: every window gets scores or an error; a failure of one version or one window touches no other.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple, TypeVar

from app.core.errors import (
    CheckpointError,
    HydraulicDiagnosticsError,
    LimitExceeded,
    ModelUnavailable,
    UnknownVersion,
)
from app.diagnosis.build import Scores
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import WindowQuality
from app.serving.ingress.circuit_breaker import CircuitBreaker
from app.serving.ingress.traffic import Release, Traffic, order_of_versions
from app.serving.ingress.version import Version, name_of, read_version
from app.serving.observability.metrics import Metrics
from app.serving.rpc.messages import (
    BuildAnswer,
    BuildCall,
    BuiltGroup,
    ScoreAnswer,
    ScoreCall,
    VersionDescription,
    WindowInput,
    build_call,
)
from app.serving.rpc.recent import Recent

logger = logging.getLogger(__name__)

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
"""Of the topologies that are kept as they travel."""

T = TypeVar("T")

Build = Callable[[BuildCall], Awaitable[BuildAnswer]]
Score = Callable[[str, ScoreCall], Awaitable[ScoreAnswer]]
Describe = Callable[[str], Awaitable[VersionDescription]]
Probe = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Chain:
    """The calls to the other deployments; the first argument of the last three is a version's application."""

    build: Build
    score: Score
    describe: Describe
    probe: Probe


class WindowToScore(NamedTuple):
    """A window, the version that the caller forces, if any, and whether evidence is wanted."""

    window: WindowInput
    forced_version: str | None
    explain: bool


class Scored(NamedTuple):
    """A window's scores, its input's summary and digest, what the version knows, whether it stood in.

    `seconds` is how long building and scoring took, for all windows that went through together.
    """

    scores: Scores
    summary: WindowQuality
    input_digest: str
    decoder: PredictionDecoder
    fallback: bool
    seconds: float


class _Part(NamedTuple):
    """A window: the group that it was built in, its place there, and what is said of its input."""

    group: BuiltGroup
    place: int
    summary: WindowQuality

    @property
    def position(self) -> int:
        """Position among the windows of the call."""
        return self.group.positions[self.place]


class _BuildersFailed(ModelUnavailable):
    """The graph builders did not answer, which is no version's fault. It does not leave this module."""


class VersionRouter:
    """All released versions behind one door.

    Args:
        chain: the calls to the other deployments.
        metrics: where failures and stage times are counted.
        timeout_s: of each call to another deployment.
    """

    def __init__(self, chain: Chain, metrics: Metrics, timeout_s: float) -> None:
        self._chain = chain
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._versions: dict[str, Version] = {}
        self._breakers: dict[str, CircuitBreaker] = {}
        self._traffic: Traffic | None = None
        self._documents: Recent[str, bytes] = Recent(MAX_DOCUMENT_BYTES, len)

    def apart(self) -> "VersionRouter":
        """Return another door to the same deployments: what fails there opens no circuit here and counts in no figure of callers."""
        return VersionRouter(self._chain, Metrics(), self._timeout_s)

    @property
    def traffic(self) -> Traffic:
        """Releases and weights in force.

        Raises:
            ModelUnavailable: none were configured yet.
        """
        if self._traffic is None:
            raise ModelUnavailable(
                "expected releases in the ingress's user_config, found none yet: see serve_config.yaml"
            )
        return self._traffic

    def set_traffic(self, traffic: Traffic) -> None:
        """Change releases and weights; requests under way finish as they began."""
        self._traffic = traffic
        self._versions = {
            name: version
            for name, version in self._versions.items()
            if traffic.find(name) is not None
        }

    def circuit_is_open(self, version: str) -> bool:
        """Tell whether callers are kept away from a version now."""
        return self._breaker(version).is_open

    async def version(self, release: Release) -> Version:
        """Return what a release's replicas say of it, asked once and remembered.

        Raises:
            ModelUnavailable: no replica answered in time, or it holds another version than the release says.
        """
        known = self._versions.get(release.version)
        if known is not None and known.release.application == release.application:
            return known
        description = await self._asked(release, self._chain.describe(release.application))
        version = read_version(release, description)
        self._versions[release.version] = version
        return version

    async def probe(self, release: Release) -> None:
        """Have a release's model score a graph of its own.

        Raises:
            ModelUnavailable: no replica answered in time.
        """
        await self._within(self._chain.probe(release.application), name_of(release))

    async def score(
        self, windows: Sequence[WindowToScore]
    ) -> list[Scored | HydraulicDiagnosticsError]:
        """Score windows, each with the version that is its own.

        Returns:
            For each window its scores, or why there are none.
        """
        outcomes: list[Scored | HydraulicDiagnosticsError | None] = [None] * len(windows)
        groups: dict[tuple[str, ...], tuple[tuple[Release, ...], list[int]]] = {}
        for position, item in enumerate(windows):
            try:
                order = self.order(item.window.equipment.equipment_id, item.forced_version)
            except (UnknownVersion, ModelUnavailable) as error:
                outcomes[position] = error
                continue
            groups.setdefault(tuple([release.version for release in order]), (order, []))[1].append(
                position
            )
        answers = await asyncio.gather(
            *(
                self._score_group(releases, [windows[position] for position in group])
                for releases, group in groups.values()
            )
        )
        for (_, group), answer in zip(groups.values(), answers, strict=True):
            for position, outcome in zip(group, answer, strict=True):
                outcomes[position] = outcome
        return [_answered(outcome) for outcome in outcomes]

    def order(self, equipment_id: str, forced_version: str | None) -> tuple[Release, ...]:
        """Return which release answers for an equipment, then those that stand in for it; a forced one stands alone.

        Raises:
            UnknownVersion: the forced version is not released.
            ModelUnavailable: no releases were configured yet.
        """
        if forced_version is None:
            return order_of_versions(equipment_id, self.traffic)
        release = self.traffic.find(forced_version)
        if release is None:
            there = ", ".join(release.version for release in self.traffic.releases)
            raise UnknownVersion(
                f"expected a released version, found '{forced_version}': there are {there}; leave model_version out "
                "for the one that traffic chooses",
                "model_version",
            )
        return (release,)

    async def _score_group(
        self, releases: tuple[Release, ...], items: Sequence[WindowToScore]
    ) -> list[Scored | HydraulicDiagnosticsError]:
        for release in self._allowed(releases):
            try:
                answer = await self._score_with(release, items, fallback=release is not releases[0])
            except _BuildersFailed as error:
                # every version has its graphs from the same pool: none is to blame, and none can stand in
                logger.warning("graph builders failed", extra={"reason": error.message})
                return [ModelUnavailable(error.message)] * len(items)
            except ModelUnavailable as error:
                self._breaker(release.version).failed()
                self._metrics.failed_versions.labels(release.version).inc()
                self._versions.pop(release.version, None)
                logger.warning(
                    "version failed", extra={"version": release.version, "reason": str(error)}
                )
                continue
            self._breaker(release.version).succeeded()
            return answer
        names = ", ".join(release.version for release in releases)
        return [
            ModelUnavailable(
                f"expected an answer from version {names}, found none: try again in a few seconds"
            )
        ] * len(items)

    def _allowed(self, releases: Sequence[Release]) -> Iterator[Release]:
        """Yield those whose circuit lets a call through just then; all of them when none does."""
        any_allowed = False
        for release in releases:
            if self._breaker(release.version).allow():
                any_allowed = True
                yield release
        if not any_allowed:
            yield from releases

    async def _score_with(
        self, release: Release, items: Sequence[WindowToScore], *, fallback: bool
    ) -> list[Scored | HydraulicDiagnosticsError]:
        version = await self.version(release)
        started = time.perf_counter()
        built = await self._build(version, items)
        outcomes: list[Scored | HydraulicDiagnosticsError] = [
            built.errors.get(position) or ModelUnavailable("not scored yet")
            for position in range(len(items))
        ]
        taught: dict[str, PredictionDecoder] = {}
        batches: dict[bool, list[_Part]] = {}
        for group in built.groups:
            summaries = group.summary.windows(items[group.positions[0]].window.equipment.sensor_ids)
            for place, (position, summary) in enumerate(
                zip(group.positions, summaries, strict=True)
            ):
                key = items[position].explain
                batches.setdefault(key, []).append(_Part(group, place, summary))
        for explain, parts in batches.items():
            answers = await self._scores_of(version, parts, explain=explain)
            seconds = time.perf_counter() - started
            for part, answer in zip(parts, answers, strict=True):
                if not isinstance(answer, Scores):
                    outcomes[part.position] = answer
                    continue
                design = items[part.position].window.equipment.design
                if design not in taught:
                    taught[design] = version.decoder_for(design)
                outcomes[part.position] = Scored(
                    scores=answer,
                    summary=part.summary,
                    input_digest=part.group.digests[part.place],
                    decoder=taught[design],
                    fallback=fallback,
                    seconds=seconds,
                )
        return outcomes

    async def _build(self, version: Version, items: Sequence[WindowToScore]) -> BuildAnswer:
        digest = version.description.spec_digest
        windows = [item.window for item in items]
        call = build_call(version.release.application, digest, windows, self._documents)
        started = time.perf_counter()
        try:
            answer = await self._within(self._chain.build(call), "the graph builders")
        except ModelUnavailable as error:
            if isinstance(_of_project(error.__cause__), CheckpointError | ModelUnavailable):
                raise  # the builders answered, and what they say is of the version
            raise _BuildersFailed(error.message) from error
        self._metrics.stage_seconds.labels("build").observe(time.perf_counter() - started)
        return answer

    async def _scores_of(
        self, version: Version, parts: Sequence[_Part], *, explain: bool
    ) -> list[Scores | HydraulicDiagnosticsError]:
        """Score windows in one call, and when it fails each in its own, so that a bad one fails alone."""
        try:
            return [*await self._scores_together(version, parts, explain=explain)]
        except LimitExceeded as error:
            if len(parts) == 1:
                return [error]
        except ModelUnavailable as error:
            if len(parts) == 1 or isinstance(error.__cause__, TimeoutError):
                raise
        alone = await asyncio.gather(
            *(self._scores_alone(version, part, explain=explain) for part in parts)
        )
        failures = [answer for answer in alone if isinstance(answer, ModelUnavailable)]
        if len(failures) == len(parts):
            raise failures[0]
        return alone

    async def _scores_alone(
        self, version: Version, part: _Part, *, explain: bool
    ) -> Scores | HydraulicDiagnosticsError:
        try:
            return (await self._scores_together(version, [part], explain=explain))[0]
        except HydraulicDiagnosticsError as error:
            return error

    async def _scores_together(
        self, version: Version, parts: Sequence[_Part], *, explain: bool
    ) -> list[Scores]:
        graphs = [
            group.graphs([part.place for part in of_group])
            for group, of_group in groupby(parts, attrgetter("group"))
        ]
        call = ScoreCall(version.description.spec_digest, tuple(graphs), explain)
        started = time.perf_counter()
        answer = await self._asked(
            version.release, self._chain.score(version.release.application, call)
        )
        self._metrics.stage_seconds.labels("score").observe(time.perf_counter() - started)
        predictions = chain.from_iterable(map(window_predictions, answer.predictions))
        return [
            Scores(each, answer.contributions[order] if explain else None)
            for order, each in enumerate(predictions)
        ]

    async def _asked(self, release: Release, call: Awaitable[T]) -> T:
        """Await a call to a version, counted as its own: what it failed stays visible when another stands in for it."""
        started = time.perf_counter()
        try:
            answer = await self._within(call, name_of(release))
        except ModelUnavailable:
            self._metrics.version_calls.labels(release.version, "failed").inc()
            raise
        else:
            self._metrics.version_calls.labels(release.version, "answered").inc()
        finally:
            self._metrics.version_seconds.labels(release.version).observe(
                time.perf_counter() - started
            )
        return answer

    async def _within(self, call: Awaitable[T], who: str) -> T:
        """Await a call to another deployment.

        Raises:
            LimitExceeded: the other side says that the caller asks too much.
            ModelUnavailable: anything else; its message reaches callers, so a foreign error's text goes to the log alone.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except asyncio.CancelledError:
            raise
        except Exception as error:
            ours = _of_project(error)
            if isinstance(ours, LimitExceeded):
                raise ours from error
            found = (
                f"{type(error).__name__}"
                if ours is None
                else f"{type(ours).__name__}: {ours.message}"
            )
            if ours is None:
                logger.warning(
                    "call failed",
                    extra={"to": who, "error": type(error).__name__, "reason": str(error)},
                )
            raise ModelUnavailable(
                f"expected {who} to answer within {self._timeout_s:g} s, found {found}"
            ) from error

    def _breaker(self, version: str) -> CircuitBreaker:
        return self._breakers.setdefault(version, CircuitBreaker(time.monotonic))


def _of_project(error: BaseException | None) -> HydraulicDiagnosticsError | None:
    """Return the project's error in what a call raised; Ray wraps it and keeps it as `cause`."""
    cause = getattr(error, "cause", None)
    for found in (cause, error):
        if isinstance(found, HydraulicDiagnosticsError):
            return found
    return None


def _answered(
    outcome: Scored | HydraulicDiagnosticsError | None,
) -> Scored | HydraulicDiagnosticsError:
    assert outcome is not None
    return outcome
