"""What travels between the deployments: by value, numpy arrays and frozen dataclasses, nothing of torch.

A topology travels once a call, as bytes that the other side reads only when it has not seen their digest.
Invariant: every window of a call is in its answer once, by its position in the call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.core.errors import HydraulicDiagnosticsError
from app.diagnosis.input_quality import QualityBatch
from app.features.binning import Floats
from app.model.graph import Contributions, GraphGroup, Prediction
from app.schemas.equipment import Equipment
from app.serving.rpc.recent import Recent
from app.store.windows import StoredWindow


class WindowInput(NamedTuple):
    """One window to build a graph of; `build_call` makes of it what travels.

    Args:
        equipment: the machine.
        readings: what the store returned, undecoded; or values of inline readings in bins, [S, N] float32, NaN missing.
    """

    equipment: Equipment
    readings: StoredWindow | Floats


class SentTopology(NamedTuple):
    """What machines that differ only in id and name have in common.

    Args:
        digest: SHA-256 of the document.
        document: as `Equipment.structure` returns it.
        sensors: how many it has.
        bins: of a window.
        steps: of a window.
    """

    digest: str
    document: bytes
    sensors: int
    bins: int
    steps: int


class SentWindow(NamedTuple):
    """A machine's id, the position of its topology in the call, and the readings as in `WindowInput`."""

    equipment_id: str
    topology: int
    readings: StoredWindow | Floats


@dataclass(frozen=True, slots=True)
class BuildCall:
    """Windows for one version.

    Args:
        application: the Serve application of the version, which tells its feature spec.
        spec_digest: SHA-256 of that spec, as the caller knows it.
        topologies: of the windows, each once.
        windows: at least one.
    """

    application: str
    spec_digest: str
    topologies: tuple[SentTopology, ...]
    windows: tuple[SentWindow, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BuiltGroup:
    """Windows of one topology.

    Args:
        positions: of the windows in the call.
        graph: their graphs, in this order.
        summary: what their features say of the input.
        digests: of their bins.
    """

    positions: tuple[int, ...]
    graph: GraphGroup
    summary: QualityBatch
    digests: tuple[str, ...]

    def graphs(self, places: Sequence[int]) -> GraphGroup:
        """Return the graphs of the windows at these places among the positions."""
        return self.graph if len(places) == len(self.positions) else self.graph.take(places)


@dataclass(frozen=True, slots=True)
class BuildAnswer:
    """Graphs of the windows of a call, and by position in the call why a window has none."""

    groups: tuple[BuiltGroup, ...]
    errors: Mapping[int, HydraulicDiagnosticsError]


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """Groups of graphs to score. `explain` asks for each sensor's contribution."""

    spec_digest: str
    groups: tuple[GraphGroup, ...]
    explain: bool = False


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """Predictions of a call, one a group, and contributions, one a window, if requested."""

    predictions: tuple[Prediction, ...]
    contributions: tuple[Contributions, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """What a model replica tells of its checkpoint.

    Args:
        manifest: `checkpoint.json` as JSON text.
        feature_spec: `feature_spec.json` as JSON text.
        calibration: `calibration.json` as JSON text.
        spec_digest: SHA-256 of the feature spec file.
        device: where the weights are, such as `cpu` or `cuda:0`.
        implementation: how this replica runs the network, such as `inference float32 x1`; see `app.model.runtime.selection`.
    """

    manifest: str
    feature_spec: str
    calibration: str
    spec_digest: str
    device: str
    implementation: str


def build_call(
    application: str,
    spec_digest: str,
    windows: Sequence[WindowInput],
    documents: Recent[str, bytes],
) -> BuildCall:
    """Make the call that has windows' graphs built, each topology once.

    Args:
        application: of the version.
        spec_digest: of its feature spec.
        windows: at least one.
        documents: topologies that were sent before, by digest.
    """
    topologies: dict[str, SentTopology] = {}
    places: dict[str, int] = {}
    sent = []
    for equipment, readings in ((window.equipment, window.readings) for window in windows):
        digest = equipment.structure_digest
        if digest not in places:
            places[digest] = len(places)
            document = documents.get(digest, equipment.structure)
            topologies[digest] = SentTopology(
                digest, document, len(equipment.sensors), equipment.bins, equipment.steps
            )
        sent.append(SentWindow(equipment.equipment_id, places[digest], readings))
    return BuildCall(application, spec_digest, tuple(topologies.values()), tuple(sent))
