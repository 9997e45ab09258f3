"""Releases as operations: what may be done to the versions that run, in the order in which no request is lost.

Add first (application with weight 0, warmed up by real diagnoses), move weight then, remove last. The file is changed and applied
together; when what runs does not follow, the file goes back to what does.
Invariant: no version gets weight before it answered, and none is removed while it has any.
"""

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from app.checkpoint.manifest import MANIFEST, Manifest
from app.checkpoint.node_cache import local_directory
from app.core.errors import (
    HydraulicDiagnosticsError,
    ReleaseConflict,
    ReleaseError,
    SettingsError,
    UnknownVersion,
)
from app.release.change import LOCK_POLL_S, Change
from app.release.clients.serve_api import ServeApi
from app.release.clients.service_api import ServiceApi
from app.release.config.edits import (
    APPLICATION_PREFIX,
    Placement,
    with_shadows,
    with_version,
    with_weights,
    without_version,
)
from app.release.config.file import ConfigFile, ReadConfig
from app.release.config.shares import UNCHANGED, ShadowChange
from app.release.history import ROLLBACK, SHADOW, UNSHADOW, in_use, weights_before
from app.release.ledger import Asker, History, ReleaseHistory, told
from app.release.view import difference

START_S = 300.0
"""How long a version may take to start: a node may have to fetch it, and load torch."""
WARM_UP_S = 30.0
QUICK_WARM_UP_S = 3.0
IN_FORCE_S = 10.0
GONE_S = 60.0


class WeightsTaken(ReleaseConflict):
    """Somebody else changed the weights in use.

    Args:
        found: the weights by version, which stay.
    """

    def __init__(self, found: Mapping[str, float]) -> None:
        super().__init__(
            f"expected the weights of this promotion in the file, found {told(found)}: somebody changed them, and they stay"
        )


class Releases:
    """What may be done to the versions that run.

    Args:
        file: `serve_config.yaml`.
        serve: applies it.
        service: the running service.
        history: where releases are written down.
        asker: who asks.
        say: takes a line about what was done.
        var_dir: where registered versions are cached on this machine.
        dry_run: say what the file would change to, and change nothing.
    """

    def __init__(
        self,
        file: ConfigFile,
        serve: ServeApi,
        service: ServiceApi,
        history: History,
        asker: Asker,
        say: Callable[[str], None],
        var_dir: Path,
        *,
        dry_run: bool = False,
    ) -> None:
        self._var_dir = var_dir
        self._file = file
        self._serve = serve
        self._service = service
        self._ledger = ReleaseHistory(history, asker, say)
        self._change = Change(file, serve, service, asker.actor)
        self._say = say
        self._dry_run = dry_run

    async def apply(self) -> None:
        """Apply the file as it is, once versions that gain weight by it answer.

        Raises:
            HydraulicDiagnosticsError: the file can't be used, a version that gains does not answer, or what runs did not follow.
        """
        before = self._file.read()
        weights = _weights(before)
        states = await self._serve.applications()
        if self._dry_run:
            for line in difference(before, states) or ["what runs is what the file says"]:
                self._say(line)
            return
        door = states.get(before.config.diagnostics.name)
        had: Mapping[str, float] = {}
        if door is not None and door.status == "RUNNING":
            had = await self._service.weights()
            await self._warm_up(
                before, [name for name, weight in weights.items() if weight > had.get(name, 0.0)]
            )
            await self._ledger.note_found(had)
        else:
            self._say("nothing answers yet: no version was warmed up before it has its weight")
        async with self._change.alone("apply"):
            if self._file.read().text != before.text:
                raise ReleaseConflict(
                    f"expected '{self._file.name}' as it was read, found it changed since: look at it again"
                )
            await self._serve.apply(before.data)
            await self._change.in_force(before, IN_FORCE_S)
        self._say("applied: " + told(weights))
        await self._ledger.record(
            max(weights, key=lambda name: weights[name] - had.get(name, 0.0)), "apply", weights
        )

    async def split(
        self, weights: Mapping[str, float], action: str = "split", shadows: ShadowChange = UNCHANGED
    ) -> None:
        """Give versions their weights, once those that gain answer.

        Args:
            weights: by version; those that are not named get none.
            action: as the history has it.
            shadows: who becomes one, and who no longer is.

        Raises:
            HydraulicDiagnosticsError: it can't be done; the weights before are in force.
        """
        await self._move(self._file.read(), weights, action, shadows=shadows)

    async def shadow(self, version: str, *, on: bool) -> None:
        """Make a version answer on copies of what others have returned, once it answers at all, or no longer.

        Raises:
            HydraulicDiagnosticsError: it can't be done; who was a shadow still is.
        """
        before = self._file.read()
        weights = _weights(before)
        if version not in weights:
            raise UnknownVersion(
                f"expected a released version, found '{version}': there are {', '.join(weights)}; deploy it"
            )
        shadows = ShadowChange(add=[version]) if on else ShadowChange(remove=[version])
        await self._move(before, weights, SHADOW if on else UNSHADOW, version, shadows=shadows)

    async def unshadow(self, versions: Sequence[str], version: str, reason: str) -> None:
        """End that versions are shadows, whatever the weights; a command that is just changing the file is waited for.

        Args:
            versions: those that are none are left out.
            version: whom it is about.
            reason: why.

        Raises:
            HydraulicDiagnosticsError: it can't be done.
        """

        async def once() -> None:
            before = self._file.read()
            if set(versions) & set(before.config.traffic.shadows):
                change = ShadowChange(remove=versions)
                await self._move(before, _weights(before), UNSHADOW, version, reason, change)

        if versions:
            await self._patiently(once)

    async def follow(
        self,
        own: Sequence[Mapping[str, float]],
        weights: Mapping[str, float],
        action: str,
        version: str,
        reason: str | None = None,
        shadows: ShadowChange = UNCHANGED,
    ) -> None:
        """Give versions their weights if nobody else changed them; a command that is just changing the file is waited for.

        Args:
            own: weights that may be there; versions that have none may come and go.
            weights: by version; those that are not named get none.
            action: as the history has it.
            version: whom it is about.
            reason: why; as the asker said when None.
            shadows: who becomes one, and who no longer is.

        Raises:
            WeightsTaken: others are there.
            HydraulicDiagnosticsError: it can't be done; the weights before are in force.
        """

        async def once() -> None:
            before = self._file.read()
            if in_use(_weights(before)) not in [in_use(known) for known in own]:
                raise WeightsTaken(_weights(before))
            await self._move(before, in_use(weights), action, version, reason, shadows)

        await self._patiently(once)

    async def rollback(self) -> None:
        """Put the weights before those of now in force again; a command that is just changing them is waited for.

        Raises:
            HydraulicDiagnosticsError: the history knows none, or they can't be had back.
        """
        await self._patiently(self._roll_back_once)

    async def _patiently(self, once: Callable[[], Awaitable[None]]) -> None:
        """Try again while another command is at work, or the file can't be read because somebody is saving it."""
        give_up = time.monotonic() + IN_FORCE_S
        while True:
            try:
                return await once()
            except WeightsTaken:
                raise
            except (ReleaseConflict, SettingsError):
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(LOCK_POLL_S)

    async def _roll_back_once(self) -> None:
        events = await self._ledger.events()
        before = self._file.read()
        now = in_use(_weights(before))
        if not events or in_use(events[0].weights) != now:
            # somebody changed the file by hand: what the history has last is what was before
            earlier = in_use(events[0].weights) if events else None
        else:
            earlier = weights_before(events)
        if earlier is None:
            raise ReleaseError(
                "expected earlier weights in the history of releases, found none: give them with `split`"
            )
        gone = sorted(set(earlier) - set(_weights(before)))
        if gone:
            raise ReleaseError(
                f"expected the versions of {told(earlier)}, found {', '.join(gone)} retired: deploy it again, or `split` otherwise"
            )
        await self._move(before, earlier, ROLLBACK)

    async def deploy(self, placement: Placement) -> None:
        """Add a version with weight 0 and wait until it has answered.

        Args:
            placement: the version; its checkpoint was checked.

        Raises:
            HydraulicDiagnosticsError: it did not start or answer; the file is as it was and the others answer.
        """
        before = self._file.read()
        weights = _weights(before)
        like = max(weights, key=lambda version: weights[version])
        text = with_version(before.text, placement, like)
        if self._shown(before, text):
            return
        name = APPLICATION_PREFIX + placement.version
        try:
            async with self._change.alone(f"deploy {placement.version}"):
                await self._change.replace(before, text)
            state = await self._serve.wait_running(name, START_S)
            replicas = sum(item.running for item in state.deployments.values())
            designs = self._designs(placement.checkpoint)
            self._say(
                await self._service.warm_up(
                    placement.version, designs, max(3, 2 * replicas), WARM_UP_S
                )
            )
        except ReleaseConflict:
            raise
        except (HydraulicDiagnosticsError, asyncio.CancelledError) as error:
            await self._take_back(placement.version)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise ReleaseError(
                f"version {placement.version} was refused and taken out again, the others answer as before: {error.message}"
            ) from error
        self._say(f"version {placement.version} runs, with weight 0")
        await self._ledger.record(placement.version, "deploy", _weights(self._file.read()))

    async def retire(self, version: str) -> None:
        """Remove a version that has no weight.

        Raises:
            HydraulicDiagnosticsError: it has weight, or is not there.
        """
        before = self._file.read()
        text = without_version(before.text, version)
        if self._shown(before, text):
            return
        application = before.config.traffic.find(version)
        assert application is not None
        async with self._change.alone(f"retire {version}"):
            after = await self._change.put_in_force(before, text, IN_FORCE_S)
        await self._serve.wait_gone(application.application, GONE_S)
        self._say(f"version {version} is gone")
        await self._ledger.record(version, "retire", _weights(after))

    async def ingress_replicas(self) -> int:
        """Return how many ingress replicas run.

        Raises:
            HydraulicDiagnosticsError: the file can't be used, or Serve does not tell.
        """
        return await self._change.ingress_replicas(self._file.read())

    def weights(self) -> dict[str, float]:
        """Return the weights of the file.

        Raises:
            SettingsError: it can't be used.
        """
        return _weights(self._file.read())

    def shadows(self) -> tuple[str, ...]:
        """Return the shadows of the file.

        Raises:
            SettingsError: it can't be used.
        """
        return self._file.read().config.traffic.shadows

    async def _move(
        self,
        before: ReadConfig,
        weights: Mapping[str, float],
        action: str,
        version: str | None = None,
        reason: str | None = None,
        shadows: ShadowChange = UNCHANGED,
    ) -> None:
        started = time.monotonic()
        had, shadowed = _weights(before), before.config.traffic.shadows
        shadowing = shadows.of(shadowed)
        text = with_weights(before.text, weights)
        if shadowing != shadowed:
            text = with_shadows(text, shadowing)
        if text == before.text:
            self._say(f"nothing to do: {told(had, shadowed)} is what the file says")
            return
        if self._shown(before, text):
            return
        gaining = [name for name, weight in weights.items() if weight > had[name]]
        new = [name for name in shadowing if name not in shadowed and name not in gaining]
        await self._warm_up(before, [*gaining, *new])
        await self._ledger.note_found(had)
        async with self._change.alone(action):
            after = await self._change.put_in_force(before, text, IN_FORCE_S)
        self._say(
            f"in force after {time.monotonic() - started:.2f} s: {told(_weights(after), shadowing)}"
        )
        about = version or max(gaining, key=lambda name: weights[name] - had[name])
        await self._ledger.record(about, action, _weights(after), reason)

    async def _warm_up(self, config: ReadConfig, versions: Sequence[str]) -> None:
        for version in versions:
            release = config.config.traffic.find(version)
            assert release is not None
            designs = self._designs(config.config.model_args(release.application).checkpoint)
            self._say(await self._service.warm_up(version, designs, 1, QUICK_WARM_UP_S))

    async def _take_back(self, version: str) -> None:
        """Remove a version that did not start from the file as it is now."""
        async with self._change.alone(f"take version {version} back", IN_FORCE_S):
            now = self._file.read()
            try:
                text = without_version(now.text, version)
            except SettingsError:
                return  # it never came in, or somebody gave it weight meanwhile
            await self._change.replace(now, text)

    def _shown(self, before: ReadConfig, text: str) -> bool:
        """In a dry run say what would change in the file, checked as strictly as the file itself."""
        if not self._dry_run:
            return False
        self._file.parse(text)
        lines = difflib.unified_diff(
            before.text.splitlines(),
            text.splitlines(),
            self._file.name,
            f"{self._file.name} after",
            lineterm="",
        )
        for line in lines:
            self._say(line)
        return True

    def _designs(self, checkpoint: str) -> tuple[str, ...]:
        """Return the designs that a version was trained on, as its manifest says."""
        try:
            return Manifest.model_validate_json(
                (local_directory(checkpoint, self._var_dir) / MANIFEST).read_bytes()
            ).designs
        except (OSError, ValueError):
            return ()  # not on this machine: any registered machine will do


def _weights(config: ReadConfig) -> dict[str, float]:
    return {release.version: release.weight for release in config.config.traffic.releases}
