"""The graph-builder pool: windows to graphs, for whatever version asks. It never imports torch.

Windows of one topology are worked on together, by a plan that is made once for all machines of that topology.
Invariant: a graph is made with the very feature spec of the version that will score it, told by its digest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from pydantic_core import from_json

from app.core.errors import CheckpointError, HydraulicDiagnosticsError, ModelUnavailable
from app.diagnosis.window_plan import WindowPlan, build_windows, plan_windows
from app.features.binning import Floats, window_digest
from app.features.spec import FeatureSpec, check_shape
from app.schemas.equipment import Equipment
from app.serving.rpc.messages import (
    BuildAnswer,
    BuildCall,
    BuiltGroup,
    SentTopology,
    SentWindow,
    VersionDescription,
)
from app.serving.rpc.recent import Recent
from app.store.windows import StoredWindow, decode_window

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_SPECS = 16
MAX_PLAN_BYTES = 256 * 1024 * 1024
MAX_VALUES_AT_ONCE = 4_000_000
"""Sensors times bins of the windows that are decoded together: bounds memory where windows are large."""
DESCRIBE_S = 5.0

Describe = Callable[[str], Awaitable[VersionDescription]]
"""Asks a version's application for its description."""


class _Topology(NamedTuple):
    """A topology that was read, with the design's name as its id, and the plan of its windows."""

    equipment: Equipment
    plan: WindowPlan


class GraphBuilder:
    """One replica of the pool.

    Args:
        describe: asks a version's application for its feature spec.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._specs: dict[str, FeatureSpec] = {}
        self._known: Recent[tuple[str, str], _Topology] = Recent(
            MAX_PLAN_BYTES, lambda known: known.plan.nbytes
        )
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def build(self, call: BuildCall) -> BuildAnswer:
        """Build the graph of each window; a window that can't be used yields its error and disturbs no other.

        Raises:
            CheckpointError: the version's application now has another feature spec than the caller knows.
            ModelUnavailable: it did not tell its feature spec in time.
        """
        spec = await self._spec(call.application, call.spec_digest)
        groups: list[BuiltGroup] = []
        errors: dict[int, HydraulicDiagnosticsError] = {}
        alike: dict[int, list[int]] = {}
        for position, window in enumerate(call.windows):
            alike.setdefault(window.topology, []).append(position)
        for place, positions in alike.items():
            windows = [(position, call.windows[position]) for position in positions]
            groups += self._groups(call.topologies[place], call.spec_digest, spec, windows, errors)
        return BuildAnswer(tuple(groups), errors)

    def _groups(
        self,
        topology: SentTopology,
        spec_digest: str,
        spec: FeatureSpec,
        windows: Sequence[tuple[int, SentWindow]],
        errors: dict[int, HydraulicDiagnosticsError],
    ) -> list[BuiltGroup]:
        known = _tried(
            lambda: self._known.get((topology.digest, spec_digest), lambda: _read(topology, spec)),
            windows[0][1].equipment_id,
        )
        if isinstance(known, HydraulicDiagnosticsError):
            errors |= dict.fromkeys([position for position, _ in windows], known)
            return []
        at_once = max(1, MAX_VALUES_AT_ONCE // max(1, topology.sensors * topology.bins))
        parts = [windows[start : start + at_once] for start in range(0, len(windows), at_once)]
        return [group for part in parts for group in _built(part, known, errors)]

    async def _spec(self, application: str, digest: str) -> FeatureSpec:
        known = self._specs.get(digest)
        if known is not None:
            return known
        async with self._asking.setdefault(digest, asyncio.Lock()):
            if digest not in self._specs:
                description = await self._described(application)
                if description.spec_digest != digest:
                    raise CheckpointError(
                        f"expected application '{application}' to have feature spec {digest[:12]}, found "
                        f"{description.spec_digest[:12]}: its checkpoint was replaced, ask again"
                    )
                if len(self._specs) >= MAX_SPECS:
                    self._specs.pop(next(iter(self._specs)))
                self._specs[digest] = FeatureSpec.model_validate_json(description.feature_spec)
            return self._specs[digest]

    async def _described(self, application: str) -> VersionDescription:
        try:
            async with asyncio.timeout(DESCRIBE_S):
                return await self._describe(application)
        except TimeoutError as error:
            raise ModelUnavailable(
                f"expected application '{application}' to describe itself within {DESCRIBE_S:g} s, found no answer: "
                "ask again"
            ) from error


def _read(topology: SentTopology, spec: FeatureSpec) -> _Topology:
    document = from_json(topology.document)
    # the id is in messages alone, and there each window's own takes its place
    equipment = Equipment.model_validate({**document, "equipment_id": document["design"]})
    return _Topology(equipment, plan_windows(equipment, spec))


def _built(
    windows: Sequence[tuple[int, SentWindow]],
    known: _Topology,
    errors: dict[int, HydraulicDiagnosticsError],
) -> list[BuiltGroup]:
    """Build windows of one topology together, and when that fails each alone; what fails alone is added to the errors."""
    position, first = windows[0]
    built = _tried(lambda: _group(windows, known), first.equipment_id)
    if isinstance(built, BuiltGroup):
        return [built]
    if len(windows) == 1:
        errors[position] = built
        return []
    return [group for window in windows for group in _built([window], known, errors)]


def _group(windows: Sequence[tuple[int, SentWindow]], known: _Topology) -> BuiltGroup:
    values_WSN = np.stack([_values(window, known) for _, window in windows])
    graph, summary = build_windows(values_WSN, known.plan)
    return BuiltGroup(
        tuple(position for position, _ in windows),
        graph,
        summary,
        tuple(window_digest(values) for values in values_WSN),
    )


def _values(window: SentWindow, known: _Topology) -> Floats:
    values_SN = window.readings
    if isinstance(values_SN, StoredWindow):
        values_SN = decode_window(values_SN, known.equipment)
    check_shape(values_SN, known.plan.features, window.equipment_id)
    return values_SN


def _tried(make: Callable[[], T], equipment_id: str) -> T | HydraulicDiagnosticsError:
    """Return what is made, or as the project's own error why it could not be; `equipment_id` is for its message."""
    try:
        return make()
    except HydraulicDiagnosticsError as error:
        return error
    except Exception as error:
        # one window of a call must not fail the others, and nobody above knows which one it is
        logger.exception("window not built", extra={"equipment_id": equipment_id})
        return HydraulicDiagnosticsError(
            f"expected a graph of '{equipment_id}', found an error of our own ({type(error).__name__}): "
            "report it with the topology"
        )
