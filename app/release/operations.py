"""Release operations in the order that loses no request: add and warm up, move traffic, remove.

Each operation changes the file and what runs together; both are reverted when Serve or the ingress
does not follow.
Invariant: no version gets traffic before it answered, and none is removed while it has traffic.
"""

import asyncio
import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.checkpoint.manifest import MANIFEST, Manifest
from app.checkpoint.node_cache import local_directory
from app.core.errors import (
    HydraulicDiagnosticsError,
    ReleaseConflict,
    ReleaseError,
    ReleasesUnavailable,
    SettingsError,
)
from app.release.attempts import Attempts, Sent, WeightsChanged
from app.release.clients.service_api import ServiceApi
from app.release.config import edits
from app.release.config.file import ReadConfig
from app.release.config.weights import (
    UNCHANGED,
    ShadowChange,
    Split,
    format_split,
    format_weights,
    keeping_designs_served,
    orphans_without,
    served_alone,
    unreleased,
)
from app.release.history import (
    ROLLBACK,
    SHADOW,
    UNSHADOW,
    HistoryStore,
    Order,
    ReleaseHistory,
)
from app.release.target import ConfigStore, ServeTarget
from app.release.transaction import ConfigTransaction
from app.release.view import difference

START_S = 300.0
"""How long a version may take to start: a node may have to fetch its checkpoint."""
WARM_UP_S = 30.0
QUICK_WARM_UP_S = 3.0
REMOVED_S = 60.0


class Releases:
    """Changes which versions run and what traffic they receive.

    An operation that fails raises HydraulicDiagnosticsError; what ran before continues.

    Args:
        file: The configuration: `serve_config.yaml`, or a RayService.
        serve: Applies the file.
        service: The running service.
        history: Where releases are recorded.
        order: Who orders them, why, and whether to report the change of the file only.
        report: Receives a line about each result.
        var_dir: Holds the cache of registered versions on this machine.
    """

    def __init__(
        self,
        file: ConfigStore,
        serve: ServeTarget,
        service: ServiceApi,
        history: HistoryStore,
        order: Order,
        report: Callable[[str], None],
        var_dir: Path,
    ) -> None:
        self._var_dir = var_dir
        self._file = file
        self._serve = serve
        self._service = service
        self._history = ReleaseHistory(history, order, report)
        self._transaction = ConfigTransaction(file, serve, service, order.actor, report)
        self._report = report
        self._dry_run = order.dry_run

    @property
    def outage_s(self) -> float:
        """How long reads or measurements may fail during a promotion."""
        return self._serve.outage_s

    @property
    def name(self) -> str:
        """Name of what holds the configuration."""
        return self._file.name

    async def apply(self) -> None:
        """Apply the file as it is, once the versions that gain traffic answer."""
        before = self._file.read()
        split = before.split
        states = await self._serve.applications()
        if self._dry_run:
            for line in difference(before, states) or ["what runs is what the file says"]:
                self._report(line)
            return
        state = states.get(before.config.diagnostics.name)
        previous = Split({})
        if state is not None and state.status == "RUNNING":
            previous = await self._service.split()
            await self._warm_up(before, split.gaining(previous), Attempts(self._serve))
            await self._history.record_found(previous)
        else:
            self._report("the service does not answer yet: no version was warmed up")
        async with self._transaction.locked("apply"):
            self._check_unchanged(before)
            await self._serve.apply(before.data)
            await self._transaction.wait_traffic(before, self._serve.in_force_s)
        self._report("applied: " + format_split(split))
        await self._history.record(split.largest_gain(previous), "apply", split)

    async def split(self, weights: Mapping[str, float], design: str | None = None) -> None:
        """Set the weights, once the versions that gain traffic answer.

        Designs whose versions would have no weight keep them, with weights of their own.

        Args:
            weights: Percent by version; versions that are not named get 0. Without any, the design
                has those of all machines again.
            design: Whose machines get them; None for all of designs without weights of their own.
        """
        before = self._file.read()
        split = before.split.changed(design, weights)
        if design is None:
            split, kept = keeping_designs_served(before.config.traffic, split)
            for each in kept:
                self._report(
                    f"machines of design {each} keep {format_weights(split.designs[each])}: no "
                    "version with weight serves them"
                )
        await self._move(before, split, "split")

    async def shadow(self, version: str, *, on: bool) -> None:
        """Start or stop scoring copies of the traffic with a version, once it answers."""
        before = self._file.read()
        if version not in before.weights:
            raise unreleased(version, before.weights)
        if on:
            change, action = ShadowChange(add=[version]), SHADOW
        else:
            change, action = ShadowChange(remove=[version]), UNSHADOW
        await self._move(before, before.split, action, version, shadows=change)

    async def unshadow(self, versions: Sequence[str], version: str, reason: str) -> None:
        """Stop shadows, whatever the weights; wait for a command that is changing the file.

        Args:
            versions: The shadows; others are ignored.
            version: The version that the history names.
            reason: Recorded in the history.
        """
        attempts = Attempts(self._serve)

        async def once() -> None:
            before = self._file.read()
            if attempts.sent or set(versions) & set(before.config.traffic.shadows):
                change = ShadowChange(remove=versions)
                await self._move(before, before.split, UNSHADOW, version, reason, change, attempts)

        if versions:
            await attempts.run(once)

    async def move_from(
        self,
        expected: Sequence[Split],
        split: Split,
        action: str,
        version: str,
        reason: str | None = None,
        shadows: ShadowChange = UNCHANGED,
    ) -> None:
        """Set the weights if nobody else changed them; wait for a command that changes the file.

        Args:
            expected: Weights that the file may have; versions without weight are ignored.
            split: Requested weights; versions that are not named get 0.
            action: Recorded in the history.
            version: The version that the history names.
            reason: Recorded in the history; that of the order when None.
            shadows: Change of the shadows.

        Raises:
            WeightsChanged: The file has other weights.
        """
        attempts = Attempts(self._serve)

        async def once() -> None:
            before = self._file.read()
            own = [*expected, split] if attempts.sent else expected
            if before.split.above_zero() not in [each.above_zero() for each in own]:
                raise WeightsChanged(before.split, self._file.name)
            to = split.above_zero()
            await self._move(before, to, action, version, reason, shadows, attempts)

        await attempts.run(once)

    async def rollback(self) -> None:
        """Restore the weights before the current ones; wait for a command that changes the file."""
        attempts = Attempts(self._serve)

        async def once() -> None:
            before = self._file.read()
            earlier = attempts.checked(before, self._file.name)
            if earlier is None:
                earlier = await self._history.before(before.split)
            retired = sorted(earlier.versions() - set(before.weights))
            if retired:
                raise ReleaseError(
                    f"expected the versions of {format_split(earlier)}, found {', '.join(retired)} "
                    "retired: deploy it again, or set other weights"
                )
            await self._move(before, earlier, ROLLBACK, attempts=attempts)

        await attempts.run(once)

    async def deploy(self, placement: edits.Placement) -> None:
        """Add a version with weight 0 and wait until it answers; remove it again if it does not.

        Args:
            placement: The version, with a checkpoint that was verified.
        """
        before = self._file.read()
        like = max(before.weights, key=lambda version: before.weights[version])
        text = edits.with_version(before.text, placement, like)
        if self._report_diff(before, text):
            return
        version = placement.version
        try:
            async with self._transaction.locked(f"deploy {version}"):
                await self._transaction.replace(before, text)
            state = await self._serve.wait_running(edits.APPLICATION_PREFIX + version, START_S)
            designs = tuple(placement.designs or ()) or self._designs(placement.checkpoint)
            count = max(3, 2 * state.replicas)
            self._report(await self._service.warm_up(version, designs, count, WARM_UP_S))
        except ReleaseConflict:
            raise  # before anything was written
        except (HydraulicDiagnosticsError, asyncio.CancelledError) as error:
            await self._remove_failed(version, error)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ReleaseError(
                f"version {version} was refused and removed again, the others answer as before: "
                f"{error.message}"
            ) from error
        now = self.read()
        alone = ", ".join(served_alone(now.config.traffic, version))
        sole = f"; it answers for {alone}, as no other version does" if alone else ""
        self._report(f"version {version} runs, with weight 0{sole}")
        await self._history.record(version, "deploy", now.split)

    async def retire(self, version: str) -> None:
        """Remove a released version that has no weight and is no shadow."""
        before = self._file.read()
        text = edits.without_version(before.text, version)
        if self._report_diff(before, text):
            return
        orphans = orphans_without(before.config.traffic, version)
        application = before.application_of(version)
        async with self._transaction.locked(f"retire {version}"):
            after = await self._transaction.replace_traffic(before, text, self._serve.in_force_s)
        await self._serve.wait_gone(application, REMOVED_S)
        left = f"; no version serves {', '.join(orphans)} any more" if orphans else ""
        self._report(f"version {version} was removed{left}")
        await self._history.record(version, "retire", after.split)

    def read(self) -> ReadConfig:
        """Return the file's content."""
        return self._file.read()

    async def _move(
        self,
        before: ReadConfig,
        split: Split,
        action: str,
        version: str | None = None,
        reason: str | None = None,
        shadows: ShadowChange = UNCHANGED,
        attempts: Attempts | None = None,
    ) -> None:
        attempts = attempts or Attempts(self._serve)
        started = time.monotonic()
        previous, old_shadows = before.split, before.config.traffic.shadows
        new_shadows = shadows.apply(old_shadows)
        text = edits.with_weights(before.text, *split)
        if new_shadows != old_shadows:
            text = edits.with_shadows(text, new_shadows)
        sent = attempts.sent
        if text == before.text and sent is None:
            self._report(
                f"nothing to do: {self._file.name} already has "
                f"{format_split(previous, old_shadows)}"
            )
            return
        if self._report_diff(before, text):
            return
        if text == before.text and sent is not None:  # only its answer was lost
            previous = sent.before.split
            async with self._transaction.locked(action):
                self._check_unchanged(before)
                found = sent.before if text == sent.text else before
                await self._transaction.follow(found, before, self._serve.in_force_s)
            after = before
        else:
            gaining = split.gaining(previous)
            added = [name for name in new_shadows if name not in {*old_shadows, *gaining}]
            await self._warm_up(before, [*gaining, *added], attempts)
            await self._history.record_found(previous)
            async with self._transaction.locked(action):
                try:
                    after = await self._transaction.replace_traffic(
                        before, text, self._serve.in_force_s
                    )
                except ReleasesUnavailable:
                    attempts.sent = Sent(before, text, split)
                    raise
        self._report(
            f"in force after {time.monotonic() - started:.2f} s: "
            f"{format_split(after.split, new_shadows)}"
        )
        subject = version or split.largest_gain(previous)
        await self._history.record(subject, action, after.split, reason)

    def _check_unchanged(self, before: ReadConfig) -> None:
        if self._file.read().text != before.text:
            raise ReleaseConflict(
                f"expected '{self._file.name}' as it was read, found it changed since: read it "
                "and repeat the command"
            )

    async def _warm_up(
        self, config: ReadConfig, versions: Sequence[str], attempts: Attempts
    ) -> None:
        for version in versions:
            if version in attempts.warmed_up:
                continue
            release = config.config.traffic.find(version)
            assert release is not None
            args = config.config.model_args(release.application)
            designs = release.designs or self._designs(args.checkpoint)
            self._report(await self._service.warm_up(version, designs, 1, QUICK_WARM_UP_S))
            attempts.warmed_up.add(version)

    async def _remove_failed(self, version: str, cause: BaseException) -> None:
        """Remove a version that did not start from the current file."""

        async def once() -> None:
            async with self._transaction.locked(f"remove version {version}"):
                now = self._file.read()
                try:
                    text = edits.without_version(now.text, version)
                except SettingsError:
                    return  # it was never added, or has weight by now
                await self._transaction.replace(now, text)

        try:
            await Attempts(self._serve).run(once)
        except HydraulicDiagnosticsError as error:
            found = (
                f"version {version} was refused and could not be removed, found: {error.message}: "
                f"run `hydraulic release retire {version}`"
            )
            if isinstance(cause, HydraulicDiagnosticsError):
                raise ReleaseError(f"{found}; it was refused since: {cause.message}") from cause
            self._report(f"warning: {found}")

    def _report_diff(self, before: ReadConfig, text: str) -> bool:
        """In a dry run, report the validated change of the file and return True."""
        if not self._dry_run:
            return False
        self._file.parse(text)
        old, new = before.text.splitlines(), text.splitlines()
        name = self._file.name
        for line in difflib.unified_diff(old, new, name, f"{name} after", lineterm=""):
            self._report(line)
        return True

    def _designs(self, checkpoint: str) -> tuple[str, ...]:
        """Return the designs of a version's training data, from its manifest."""
        try:
            path = local_directory(checkpoint, self._var_dir) / MANIFEST
            return Manifest.model_validate_json(path.read_bytes()).designs
        except (OSError, ValueError):
            return ()  # not on this machine: any registered machine will do
