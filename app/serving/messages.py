"""What travels between the deployments: by value, numpy arrays and frozen dataclasses, nothing of torch.

Invariant: a list in an answer is as long as the list in its call and in the same order.
"""

from dataclasses import dataclass

from app.errors import HydraulicDiagnosticsError
from app.evidence import InputSummary
from app.features import Floats
from app.graph import GraphBatch, ModelOutput
from app.schemas.equipment import Equipment
from app.store.windows import StoredWindow


@dataclass(frozen=True, slots=True)
class WindowInput:
    """One window to build a graph of.

    Args:
        equipment: the machine.
        readings: what the store returned, undecoded; or values of inline readings in bins, [S, N] float32, NaN missing.
    """

    equipment: Equipment
    readings: StoredWindow | Floats


@dataclass(frozen=True, slots=True)
class BuildCall:
    """Windows for one version.

    Args:
        application: the Serve application of the version, which tells its feature spec.
        spec_digest: SHA-256 of that spec, as the caller knows it.
        windows: at least one.
    """

    application: str
    spec_digest: str
    windows: tuple[WindowInput, ...]


@dataclass(frozen=True, slots=True)
class BuiltWindow:
    """One window's graph and what its features say of the input."""

    graph: GraphBatch
    summary: InputSummary


BuildAnswer = tuple[BuiltWindow | HydraulicDiagnosticsError, ...]
"""A graph for each window, or why there is none."""


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """Graphs to score; all of one number of steps. `explain` asks for each sensor's contribution to each component."""

    spec_digest: str
    graph: GraphBatch
    explain: bool = False


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """A model's output for the graphs of a call, and [V, S] contributions for each graph when they were asked for."""

    output: ModelOutput
    contributions: tuple[Floats, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """What a model replica tells of its checkpoint.

    Args:
        card: `checkpoint.json` as JSON text.
        feature_spec: `feature_spec.json` as JSON text.
        spec_digest: SHA-256 of the feature spec file.
        device: where the weights are, such as `cpu` or `cuda:0`.
    """

    card: str
    feature_spec: str
    spec_digest: str
    device: str
