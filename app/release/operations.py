"""Release operations in the order that loses no request: add and warm up, move traffic, remove.

Each operation changes the file and what runs together; both are reverted when Serve or the ingress
does not follow.
Invariant: no version gets traffic before it answered, and none is removed while it has traffic.
"""

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay

from app.checkpoint.manifest import MANIFEST, Manifest
from app.checkpoint.node_cache import local_directory
from app.core.errors import (
    HydraulicDiagnosticsError,
    ReleaseConflict,
    ReleaseError,
    SettingsError,
    UnknownVersion,
)
from app.release.clients.serve_api import ServeApi
from app.release.clients.service_api import ServiceApi
from app.release.config import edits
from app.release.config.file import ConfigFile, ReadConfig
from app.release.config.weights import (
    UNCHANGED,
    ShadowChange,
    Split,
    format_split,
    format_weights,
    keeping_designs_served,
)
from app.release.history import (
    ROLLBACK,
    SHADOW,
    UNSHADOW,
    HistoryStore,
    Order,
    ReleaseHistory,
    split_after,
    split_before,
)
from app.release.transaction import RETRY_WAIT, ConfigTransaction, WeightsChanged
from app.release.view import difference
from app.serving.ingress.traffic import Machine, Traffic

START_S = 300.0
"""How long a version may take to start: a node may have to fetch its checkpoint."""
WARM_UP_S = 30.0
QUICK_WARM_UP_S = 3.0
IN_FORCE_S = 10.0
REMOVED_S = 60.0


class Releases:
    """Changes which versions run and what traffic they receive.

    An operation that fails raises HydraulicDiagnosticsError; what ran before continues.

    Args:
        file: `serve_config.yaml`.
        serve: Applies the file.
        service: The running service.
        history: Where releases are recorded.
        order: Who orders them, why, and whether to report the change of the file only.
        report: Receives a line about each result.
        var_dir: Holds the cache of registered versions on this machine.
    """

    def __init__(
        self,
        file: ConfigFile,
        serve: ServeApi,
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
        self._transaction = ConfigTransaction(file, serve, service, order.actor)
        self._report = report
        self._dry_run = order.dry_run

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
            await self._warm_up(before, split.gaining(previous))
            await self._history.record_found(previous)
        else:
            self._report("the service does not answer yet: no version was warmed up")
        async with self._transaction.locked("apply"):
            if self._file.read().text != before.text:
                raise ReleaseConflict(
                    f"expected '{self._file.name}' as it was read, found it changed since: read it "
                    "and repeat the command"
                )
            await self._serve.apply(before.data)
            await self._transaction.wait_traffic(before, IN_FORCE_S)
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

        async def once() -> None:
            before = self._file.read()
            if set(versions) & set(before.config.traffic.shadows):
                change = ShadowChange(remove=versions)
                await self._move(before, before.split, UNSHADOW, version, reason, change)

        if versions:
            await self._retry(once)

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

        async def once() -> None:
            before = self._file.read()
            if before.split.above_zero() not in [each.above_zero() for each in expected]:
                raise WeightsChanged(before.split)
            await self._move(before, split.above_zero(), action, version, reason, shadows)

        await self._retry(once)

    async def rollback(self) -> None:
        """Restore the weights before the current ones; wait for a command that changes the file."""
        await self._retry(self._roll_back_once)

    async def _retry(self, once: Callable[[], Awaitable[None]]) -> None:
        """Retry while another command holds the lock, or a person is saving the file."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(
                lambda error: (
                    isinstance(error, ReleaseConflict | SettingsError)
                    and not isinstance(error, WeightsChanged)
                )
            ),
            stop=stop_after_delay(IN_FORCE_S),
            wait=RETRY_WAIT,
            reraise=True,
        )
        await retrying(once)

    async def _roll_back_once(self) -> None:
        events = await self._history.events()
        before = self._file.read()
        if events and split_after(events[0]) == before.split.above_zero():
            earlier = split_before(events)
        else:  # the file was changed by hand: the newest weights of the history precede it
            earlier = split_after(events[0]) if events else None
        if earlier is None:
            raise ReleaseError(
                "expected earlier weights in the release history, found none: set weights instead"
            )
        retired = sorted(earlier.versions() - set(before.weights))
        if retired:
            raise ReleaseError(
                f"expected the versions of {format_split(earlier)}, found {', '.join(retired)} "
                "retired: deploy it again, or set other weights"
            )
        await self._move(before, earlier, ROLLBACK)

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
            raise
        except (HydraulicDiagnosticsError, asyncio.CancelledError) as error:
            await self._remove_failed(version)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ReleaseError(
                f"version {version} was refused and removed again, the others answer as before: "
                f"{error.message}"
            ) from error
        self._report(f"version {version} runs, with weight 0{self._sole(version)}")
        await self._history.record(version, "deploy", self.read().split)

    async def retire(self, version: str) -> None:
        """Remove a released version that has no weight and is no shadow."""
        before = self._file.read()
        text = edits.without_version(before.text, version)
        if self._report_diff(before, text):
            return
        orphans = self._orphans(before.config.traffic, version)
        application = before.application_of(version)
        async with self._transaction.locked(f"retire {version}"):
            after = await self._transaction.replace_traffic(before, text, IN_FORCE_S)
        await self._serve.wait_gone(application, REMOVED_S)
        left = f"; no version serves {', '.join(orphans)} any more" if orphans else ""
        self._report(f"version {version} was removed{left}")
        await self._history.record(version, "retire", after.split)

    def _orphans(self, traffic: Traffic, version: str) -> list[str]:
        """Return the designs that only this version can serve.

        Raises:
            ReleaseError: It answers for machines that another version can serve.
        """
        designs = [each for each in traffic.known_designs if version in traffic.shares(each)]
        shared = [each for each in designs if len(traffic.able(Machine("", each))) > 1]
        if shared:
            raise ReleaseError(
                f"expected a version that answers for no machine, found that version {version} "
                f"answers for {', '.join(shared)} without weight, as the first one released: give "
                "another version weight there first"
            )
        return designs

    async def ingress_replicas(self) -> int:
        """Return the number of running ingress replicas, at least 1."""
        return await self._transaction.ingress_replicas(self._file.read())

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
    ) -> None:
        started = time.monotonic()
        previous, old_shadows = before.split, before.config.traffic.shadows
        new_shadows = shadows.apply(old_shadows)
        text = edits.with_weights(before.text, *split)
        if new_shadows != old_shadows:
            text = edits.with_shadows(text, new_shadows)
        if text == before.text:
            self._report(
                f"nothing to do: the file already has {format_split(previous, old_shadows)}"
            )
            return
        if self._report_diff(before, text):
            return
        gaining = split.gaining(previous)
        added = [name for name in new_shadows if name not in old_shadows and name not in gaining]
        await self._warm_up(before, [*gaining, *added])
        await self._history.record_found(previous)
        async with self._transaction.locked(action):
            after = await self._transaction.replace_traffic(before, text, IN_FORCE_S)
        self._report(
            f"in force after {time.monotonic() - started:.2f} s: "
            f"{format_split(after.split, new_shadows)}"
        )
        subject = version or split.largest_gain(previous)
        await self._history.record(subject, action, after.split, reason)

    async def _warm_up(self, config: ReadConfig, versions: Sequence[str]) -> None:
        for version in versions:
            release = config.config.traffic.find(version)
            assert release is not None
            args = config.config.model_args(release.application)
            designs = release.designs or self._designs(args.checkpoint)
            self._report(await self._service.warm_up(version, designs, 1, QUICK_WARM_UP_S))

    async def _remove_failed(self, version: str) -> None:
        """Remove a version that did not start from the current file."""
        async with self._transaction.locked(f"remove version {version}", IN_FORCE_S):
            now = self._file.read()
            try:
                text = edits.without_version(now.text, version)
            except SettingsError:
                return  # it was never added, or has weight by now
            await self._transaction.replace(now, text)

    def _sole(self, version: str) -> str:
        """Say which designs' machines a version serves although it has no weight."""
        traffic = self._file.read().config.traffic
        found = [each for each in traffic.known_designs if traffic.shares(each) == {version: 100.0}]
        return f"; it answers for {', '.join(found)}, as no other version does" if found else ""

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


def unreleased(version: str, weights: Mapping[str, float]) -> UnknownVersion:
    """Return the error about a version that is not released."""
    return UnknownVersion(
        f"expected a released version, found '{version}': there are {', '.join(weights)}; deploy it"
    )
