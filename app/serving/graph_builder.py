"""The graph-builder pool: windows to graphs, for whatever version asks. It never imports torch.

Invariant: a graph is made with the very feature spec of the version that will score it, told by its digest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from app.errors import CheckpointError, HydraulicDiagnosticsError, ModelUnavailable
from app.evidence import summarise
from app.features import FeatureSpec, Floats, window_features
from app.graph import build_graph
from app.serving.messages import BuildAnswer, BuildCall, BuiltWindow, VersionDescription, WindowInput
from app.store.windows import StoredWindow, decode_window

logger = logging.getLogger(__name__)

MAX_SPECS = 16
DESCRIBE_S = 5.0

Describe = Callable[[str], Awaitable[VersionDescription]]
"""Asks a version's application for its description."""


class GraphBuilder:
    """One replica of the pool.

    Args:
        describe: asks a version's application for its feature spec.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._specs: dict[str, FeatureSpec] = {}
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def build(self, call: BuildCall) -> BuildAnswer:
        """Build the graph of each window; a window that can't be used yields its error and disturbs no other.

        Raises:
            CheckpointError: the version's application now has another feature spec than the caller knows.
            ModelUnavailable: it did not tell its feature spec in time.
        """
        spec = await self._spec(call.application, call.spec_digest)
        return tuple(_build(window, spec) for window in call.windows)

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


def _build(window: WindowInput, spec: FeatureSpec) -> BuiltWindow | HydraulicDiagnosticsError:
    try:
        features = window_features(_values(window), window.equipment, spec)
        return BuiltWindow(build_graph(window.equipment, features, spec), summarise(window.equipment, features, spec))
    except HydraulicDiagnosticsError as error:
        return error
    except Exception as error:
        # one window of a batch must not fail the others, and nobody above knows which one it is
        logger.exception("window not built", extra={"equipment_id": window.equipment.equipment_id})
        return HydraulicDiagnosticsError(
            f"expected a graph of '{window.equipment.equipment_id}', found an error of our own ({type(error).__name__}): "
            "report it with the topology"
        )


def _values(window: WindowInput) -> Floats:
    if isinstance(window.readings, StoredWindow):
        return decode_window(window.readings, window.equipment)
    return window.readings
