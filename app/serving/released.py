"""The way from windows to scores: the version that traffic chooses, and another one when it fails.

Invariant: every window gets scores or an error; a failure of one version or one window touches no other.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.card import Card
from app.diagnose import InputSummary, Knowledge, Scores
from app.errors import HydraulicDiagnosticsError, ModelUnavailable, UnknownVersion
from app.features import FeatureSpec
from app.graph import concatenate, split_output
from app.schemas.equipment import Equipment
from app.serving.circuit_breaker import CircuitBreaker
from app.serving.messages import (
    BuildAnswer,
    BuildCall,
    BuiltWindow,
    ScoreAnswer,
    ScoreCall,
    VersionDescription,
    WindowInput,
)
from app.serving.metrics import Metrics
from app.serving.traffic import Release, Traffic, order_of_versions

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True)
class WindowToScore:
    """A window, the version that the caller forces, if any, and whether evidence is wanted."""

    window: WindowInput
    forced_version: str | None
    explain: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """A window's scores, what its features say of the input, what the version knows, and whether it stood in."""

    scores: Scores
    summary: InputSummary
    knowledge: Knowledge
    fallback: bool


@dataclass(frozen=True, slots=True)
class Version:
    """A released version as its replicas describe it."""

    release: Release
    card: Card
    spec: FeatureSpec
    description: VersionDescription

    def knowledge_of(self, equipment: Equipment) -> Knowledge:
        """Return what this version was taught about an equipment's design."""
        return Knowledge(
            version=self.release.version,
            grades=self.spec.grades.get(equipment.design, {}),
            trained_heads=self.card.trained_heads,
        )


class ReleasedVersions:
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
        self._versions = {name: version for name, version in self._versions.items() if traffic.find(name) is not None}

    def circuit_is_open(self, version: str) -> bool:
        """Tell whether callers are kept away from a version now."""
        return self._breaker(version).is_open

    async def version(self, release: Release) -> Version:
        """Return what a release's replicas say of it, asked once and remembered.

        Raises:
            ModelUnavailable: no replica answered in time.
        """
        known = self._versions.get(release.version)
        if known is not None and known.release.application == release.application:
            return known
        description = await self._within(self._chain.describe(release.application), release)
        version = Version(
            release=release,
            card=Card.model_validate_json(description.card),
            spec=FeatureSpec.model_validate_json(description.feature_spec),
            description=description,
        )
        self._versions[release.version] = version
        return version

    async def probe(self, release: Release) -> None:
        """Have a release's model score a graph of its own.

        Raises:
            ModelUnavailable: no replica answered in time.
        """
        await self._within(self._chain.probe(release.application), release)

    async def score(self, windows: Sequence[WindowToScore]) -> list[Scored | HydraulicDiagnosticsError]:
        """Score windows, each with the version that is its own.

        Returns:
            For each window its scores, or why there are none.
        """
        outcomes: list[Scored | HydraulicDiagnosticsError | None] = [None] * len(windows)
        groups: dict[tuple[str, ...], list[int]] = {}
        for position, item in enumerate(windows):
            try:
                order = self._order(item)
            except (UnknownVersion, ModelUnavailable) as error:
                outcomes[position] = error
                continue
            groups.setdefault(tuple(release.version for release in order), []).append(position)
        answers = await asyncio.gather(
            *(
                self._score_group(versions, [windows[position] for position in group])
                for versions, group in groups.items()
            )
        )
        for group, answer in zip(groups.values(), answers, strict=True):
            for position, outcome in zip(group, answer, strict=True):
                outcomes[position] = outcome
        return [_answered(outcome) for outcome in outcomes]

    def _order(self, item: WindowToScore) -> tuple[Release, ...]:
        if item.forced_version is None:
            return order_of_versions(item.window.equipment.equipment_id, self.traffic)
        release = self.traffic.find(item.forced_version)
        if release is None:
            there = ", ".join(release.version for release in self.traffic.releases)
            raise UnknownVersion(
                f"expected a released version, found '{item.forced_version}': there are {there}; leave model_version out "
                "for the one that traffic chooses",
                "model_version",
            )
        return (release,)

    async def _score_group(
        self, versions: tuple[str, ...], items: Sequence[WindowToScore]
    ) -> list[Scored | HydraulicDiagnosticsError]:
        releases = [release for name in versions if (release := self.traffic.find(name)) is not None]
        allowed = [release for release in releases if self._breaker(release.version).allow()] or releases
        for release in allowed:
            try:
                answer = await self._score_with(release, items, fallback=release is not releases[0])
            except ModelUnavailable as error:
                self._breaker(release.version).failed()
                self._metrics.failed_versions.labels(release.version).inc()
                self._versions.pop(release.version, None)
                logger.warning("version failed", extra={"version": release.version, "reason": str(error)})
                continue
            self._breaker(release.version).succeeded()
            return answer
        names = ", ".join(release.version for release in releases)
        return [
            ModelUnavailable(f"expected an answer from version {names}, found none: try again in a few seconds")
        ] * len(items)

    async def _score_with(
        self, release: Release, items: Sequence[WindowToScore], *, fallback: bool
    ) -> list[Scored | HydraulicDiagnosticsError]:
        version = await self.version(release)
        digest = version.description.spec_digest
        call = BuildCall(release.application, digest, tuple(item.window for item in items))
        built = await self._timed("build", self._chain.build(call), release)
        outcomes: list[Scored | HydraulicDiagnosticsError] = [
            item if isinstance(item, HydraulicDiagnosticsError) else ModelUnavailable("not scored yet")
            for item in built
        ]
        batches: dict[tuple[int, bool], list[int]] = {}
        for position, item in enumerate(built):
            if isinstance(item, BuiltWindow):
                key = (item.graph.x_STF.shape[1], items[position].explain)
                batches.setdefault(key, []).append(position)
        for (_, explain), positions in batches.items():
            parts = [part for position in positions if isinstance(part := built[position], BuiltWindow)]
            score_call = ScoreCall(digest, concatenate([part.graph for part in parts]), explain)
            answer = await self._timed("score", self._chain.score(release.application, score_call), release)
            outputs = split_output(answer.output, [len(part.graph.component_type_V) for part in parts])
            for order, (position, part, output) in enumerate(zip(positions, parts, outputs, strict=True)):
                outcomes[position] = Scored(
                    scores=Scores(output, answer.contributions[order] if explain else None),
                    summary=part.summary,
                    knowledge=version.knowledge_of(items[position].window.equipment),
                    fallback=fallback,
                )
        return outcomes

    async def _timed(self, stage: str, call: Awaitable[T], release: Release) -> T:
        started = time.perf_counter()
        answer = await self._within(call, release)
        self._metrics.stage_seconds.labels(stage).observe(time.perf_counter() - started)
        return answer

    async def _within(self, call: Awaitable[T], release: Release) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise ModelUnavailable(
                f"expected version {release.version} to answer within {self._timeout_s:g} s, found {type(error).__name__}: "
                f"{str(error)[:300]}"
            ) from error

    def _breaker(self, version: str) -> CircuitBreaker:
        return self._breakers.setdefault(version, CircuitBreaker(time.monotonic))


def _answered(outcome: Scored | HydraulicDiagnosticsError | None) -> Scored | HydraulicDiagnosticsError:
    assert outcome is not None
    return outcome
