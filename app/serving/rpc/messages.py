"""Messages between the deployments: numpy arrays, bytes and frozen records, without torch.

Windows of a call are numbered by their position in it, and each is in its answer exactly once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.diagnosis.pipeline import BuildResult, WindowGroup
from app.model.graph import GraphGroup


@dataclass(frozen=True, slots=True)
class BuildCall:
    """Windows whose graphs one version will score.

    Args:
        spec_digest: SHA-256 of the version's feature spec.
        groups: the windows by structure and baseline.
        documents: feature spec and structures as JSON by digest, and baselines by id, as far as
            they are sent along.
        traces: trace ids of the requests, for log lines.
    """

    spec_digest: str
    groups: Sequence[WindowGroup]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    traces: tuple[str, ...] = ()

    @property
    def digests(self) -> list[str]:
        """Digests of all documents that the call needs, and ids of its baselines."""
        structures = [group.structure_digest for group in self.groups]
        baselines = [group.baseline_id for group in self.groups if group.baseline_id]
        return [self.spec_digest, *structures, *baselines]


class BuildAnswer(NamedTuple):
    """The graphs of a call, or the documents that the replica needs to build them.

    Args:
        result: empty when a document is missing.
        missing: digests of the documents that the replica does not have; the caller repeats the
            call with them.
    """

    result: BuildResult
    missing: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """Graphs to score.

    Args:
        spec_digest: SHA-256 of the feature spec that they were built with.
        groups: the graphs by topology and number of steps.
        explain: whether to measure what each sensor contributes to each component.
        patience_s: how long earlier work of the replica may delay the answer; None for any time.
        traces: trace ids of the requests, for log lines.
    """

    spec_digest: str
    groups: Sequence[GraphGroup]
    explain: bool = False
    patience_s: float | None = None
    traces: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        """Return the cells of all forward passes, to which the time is in proportion."""
        passes = [1 + group.topology.sensors * self.explain for group in self.groups]
        return sum(n * group.cells for n, group in zip(passes, self.groups, strict=True))


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """A model replica's description of its checkpoint.

    Args:
        manifest: `checkpoint.json` as JSON text.
        feature_spec: `feature_spec.json` as JSON text.
        calibration: `calibration.json` as JSON text.
        spec_digest: SHA-256 of the feature spec file.
        device: that the network runs on, such as `cpu` or `cuda:0`.
        implementation: how the network is executed, such as `onnxruntime float32 x1`.
    """

    manifest: str
    feature_spec: str
    calibration: str
    spec_digest: str
    device: str
    implementation: str
